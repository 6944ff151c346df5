"""Versions of the default learner's head, fitted on half of the labels and on all of them, and what they predict.

``python -m benchmarks.cycle.halves`` fits them on the splits of :mod:`benchmarks.quality.learner` and keeps what each
predicts for the pairs of the test queries under ``--work``; a split that is there is not fitted again. The pairs of
predictions are the two versions of a cycle: for :mod:`benchmarks.cycle.looks`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import data_folder
from benchmarks.quality.learner import SETS, begin_run, predict_test
from darl_opensearch.errors import DarlError
from darl_opensearch.io.writing import write_file
from trainer.config import Config
from trainer.stages import STAGES
from trainer.stages.objective import Objective
from trainer.stages.registry import Context
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

WORK = Path(__file__).parent / "work" / "halves"
VERSIONS = UNTRAINED, HALF, ALL = "untrained", "half", "all"
STAGE = "head"


def fit(folder: Path, name: str, number: int) -> dict[str, NDArray[np.generic]]:
    """Fit the versions on one split, each from the untrained model, their grades calibrated on the dev queries.

    :param folder: what ``DARL_DATA`` names.
    :param number: of the split; seeds everything random.
    :return: ``grades [n]`` and ``query [n]`` of the test pairs; of each version ``latent [n]`` and ``probs [n, k]``.
    """
    config, split, features = begin_run(folder, name, number, ())
    data = RunData(split.items, split.train, split.dev, [])
    train, dev, test = (data.judged(queries) for queries in (split.train, split.dev, split.test))
    model = features.model
    untrained = copy.deepcopy(model.head)
    half = data.judged(split.train[: len(split.train) // 2])
    found: dict[str, NDArray[np.generic]] = {"grades": test.grades.numpy(), "query": test.query_index.numpy()}
    for version, pairs in ((UNTRAINED, None), (HALF, half), (ALL, train)):
        model.head = copy.deepcopy(untrained)
        if pairs is not None:
            _fit_head(features, data, {"train": pairs, "dev": dev}, config)
        predicted = predict_test(features, dev, test)
        found |= {f"{version}_latent": predicted.latent, f"{version}_probs": predicted.grade_probs}
    return found


def _fit_head(features: Features, data: RunData, pairs: dict[str, Pairs], config: Config) -> None:
    objective = Objective.make(config.loss, config.grades.scale.gains)
    with tempfile.TemporaryDirectory() as run:
        context = Context(features, objective, config, data, pairs, Path(), Path(run), lambda what, done, total: None)
        STAGES[STAGE].make().run(dataclasses.replace(context, number=0))


def keep(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write arrays atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
    write_file(path, buffer.getvalue())


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle.halves", description=__doc__)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=["epqa", "semeval_cqa_a"])
    parser.add_argument("--splits", nargs="*", type=int, default=[0], help="default: 0")
    parser.add_argument("--work", type=Path, default=WORK, help="where predictions are kept")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        folder = data_folder()
        for number in args.splits:
            for name in args.sets:
                path = args.work / f"{name}-{number}.npz"
                if not path.is_file():
                    keep(path, fit(folder, name, number))
                    print(path, flush=True)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
