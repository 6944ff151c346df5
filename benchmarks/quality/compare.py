"""Methods side by side: every one on the same splits, its predictions kept, its figures with intervals.

Predictions of each model are written to a working folder as they come, so that a comparison that was broken off
goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import data_folder
from benchmarks.quality import report, sets
from benchmarks.quality.data import GAINS, Judged, Rows, encode, half_split
from benchmarks.quality.feedbackqa import circumstances
from benchmarks.quality.measures import over_splits
from benchmarks.quality.methods import PRIOR, Method
from benchmarks.quality.training import FULL_EPOCHS, ITEMS_PER_QUERY, cut_points, train_full, train_head
from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_data, digest_json
from darl_opensearch.io.writing import new_file
from darl_opensearch.stats.bootstrap import Figure, Resampled, mean_over_queries, resample
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.paired import compare_paired
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.config import Model
from trainer.evaluate.grading import Grading

# Caps below the product's: a descent through the encoder for every loss has to end the same day on two cores.
BASE = Model(name="quality", query_cap=32, item_cap=96)
DRAWS = 2000
MEASURES = ("ndcg", "macro_f1", "quadratic_kappa", "ece", "rps")
LOWER_IS_BETTER = ("ece", "rps")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    :param name: of the result file.
    :param stages: for each stage (``head`` or ``full``) its methods.
    :param splits: half-splits of each stage.
    :param against: the method that the others are compared with.
    """

    name: str
    stages: Mapping[str, Sequence[Method]]
    splits: Mapping[str, int]
    against: str


@dataclass(frozen=True)
class Told:
    """What one model said of one test part.

    :param latent: ``[n]``.
    :param grade_probs: ``[n, k]``.
    :param cut_grades: ``[n]`` grades by cut-points chosen on dev.
    """

    latent: Floats
    grade_probs: Floats
    cut_grades: NDArray[np.int64]


class Lab:
    """One setting, encoded, with the models that were made of it.

    :param setting: the setting.
    :param folder: what ``DARL_DATA`` names.
    :param work: where predictions are kept.
    :param seed: of everything random.
    """

    def __init__(self, setting: sets.Setting, folder: Path, work: Path, *, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.model = sets.untrained(BASE)
        texts = sets.join([sets.read_texts(folder, name, seed=seed) for name in setting.folders])
        self.judged: Judged = encode(texts, setting.inside, self.model)
        self.start = {k: v.clone() for k, v in self.model.state_dict().items() if not k.startswith("head.")}
        self.inside = self.judged.queries(*setting.inside)
        self.outside = sets.parts(setting, self.judged)
        facts = {"base": BASE.base, "caps": [BASE.query_cap, BASE.item_cap], "seed": seed, "prior": PRIOR,
                 "full": [FULL_EPOCHS, ITEMS_PER_QUERY], "encoder": "bf16", "items": sets.ITEMS,
                 "setting": sets.describe(setting),
                 "data": sets.digests(folder, setting.folders)}  # fmt: skip
        key = digest_json(facts)[:12]
        self.work = work / f"{setting.name}-{key}"

    def test_parts(self, number: int) -> tuple[Any, dict[str, Rows]]:
        """Split the training domains.

        :param number: of the repetition.
        :return: the split, and the queries of each test part.
        """
        split = half_split(self.inside, seed=self.seed, number=number)
        return split, {"ID": split.test, **self.outside}

    def tell(self, stage: str, method: Method, number: int) -> dict[str, Told]:
        """Train a model, or take what it said before.

        :param stage: ``head`` or ``full``.
        :param method: the method.
        :param number: of the repetition.
        :return: what it says of each test part.
        """
        kind = digest_data(repr(dataclasses.replace(method, name="")))[:12]
        path = self.work / stage / f"{kind}-{number}.npz"
        split, parts = self.test_parts(number)
        if not path.is_file():
            wanted = torch.cat([self.judged.rows(queries) for queries in parts.values()])
            if stage == "head":
                model = train_head(method, self.judged, split.train, split.dev)
            else:
                model = train_full(method, self.model, self.start, self.judged, split.train, split.dev, wanted,
                                   seed=self.seed + number)  # fmt: skip
            cuts = cut_points(model, self.judged.part(split.dev), self.judged.rows(split.dev))
            arrays: dict[str, Any] = {}
            for name, queries in parts.items():
                said = model.predict(self.judged.rows(queries))
                arrays |= {f"{name}/latent": said.latent, f"{name}/grade_probs": said.grade_probs,
                           f"{name}/cut_grades": np.searchsorted(cuts, said.latent)}  # fmt: skip
            with new_file(path) as work, work.open("wb") as file:
                np.savez(file, **arrays)
        with np.load(path) as found:
            return {
                name: Told(found[f"{name}/latent"], found[f"{name}/grade_probs"], found[f"{name}/cut_grades"])
                for name in parts
            }


@dataclass(frozen=True)
class Pooled:
    """One method over all splits.

    :param ndcg: ``[q]`` mean over the splits that tested a query; nan where none did.
    :param figures: figures over queries.
    """

    ndcg: Floats
    figures: dict[str, Figure]


def pool(lab: Lab, stage: str, method: Method, splits: int, part: str, *, by_cuts: bool) -> Pooled:
    """Put what a method said in every split together.

    :param lab: the setting.
    :param stage: ``head`` or ``full``.
    :param method: the method.
    :param splits: repetitions.
    :param part: test part.
    :param by_cuts: take the predicted grades from cut-points instead of the likeliest grade.
    :return: its figures.
    """
    ndcg: list[Any] = []
    probs: list[Any] = []
    cut: list[Any] = []
    grades: list[Any] = []
    query_index: list[Any] = []
    for number in range(splits):
        queries = lab.test_parts(number)[1][part]
        pairs = lab.judged.part(queries)
        told = lab.tell(stage, method, number)[part]
        given, gain, index = pairs.numpy(GAINS)
        ndcg.append(ndcg_per_query(told.latent, gain, index, cutoff=lab.setting.cutoff))
        for held, values in zip((probs, cut, grades, query_index), (told.grade_probs, told.cut_grades, given, index),
                                strict=True):  # fmt: skip
            held.append(values)
    n = len(lab.judged.domain)
    per_query = over_splits(ndcg, n)
    truth, index = np.concatenate(grades), np.concatenate(query_index)
    figures = Grading(np.concatenate(probs), truth, index, n).figures()
    if by_cuts:
        sharp = Grading(np.eye(len(GAINS))[np.concatenate(cut)], truth, index, n).figures()
        figures |= {name: sharp[name] for name in ("macro_f1", "quadratic_kappa", "off_by_two")}
    return Pooled(per_query, {"ndcg": mean_over_queries(per_query), **figures})


def compare(lab: Lab, stage: str, plan: Plan, *, by_cuts: Sequence[str] = ()) -> dict[str, Any]:
    """Measure every method of a stage on every test part, and each against one.

    :param lab: the setting.
    :param stage: ``head`` or ``full``.
    :param plan: what is compared.
    :param by_cuts: methods whose grades come from cut-points.
    :return: for each part ``figures`` and ``differences`` (method minus the one they are compared with).
    """
    found: dict[str, Any] = {}
    for part in ("ID", *lab.outside):
        pooled = {
            m.name: pool(lab, stage, m, plan.splits[stage], part, by_cuts=m.name in by_cuts) for m in plan.stages[stage]
        }
        flat = {f"{name}\n{key}": p.figures[key] for name, p in pooled.items() for key in MEASURES}
        drawn = resample(flat, draws=DRAWS, seed=lab.seed)
        figures = {name: {key: drawn[f"{name}\n{key}"].interval().to_json() for key in MEASURES} for name in pooled}
        found[part] = {"figures": figures, "differences": _differences(pooled, drawn, plan.against, lab.seed)}
    return found


def _differences(
    pooled: Mapping[str, Pooled], drawn: Mapping[str, Resampled], against: str, seed: int
) -> dict[str, dict[str, Any]]:
    """Each method minus the one; p by randomisation for nDCG, by the bootstrap for the rest; Holm over methods."""
    others = [name for name in pooled if name != against]
    claims: dict[str, dict[str, Any]] = {name: {} for name in others}
    for key in MEASURES:
        p_values = {}
        for name in others:
            gap = drawn[f"{name}\n{key}"].minus(drawn[f"{against}\n{key}"])
            if key == "ndcg":
                claim = compare_paired(pooled[name].ndcg, pooled[against].ndcg, seed=seed)
                claims[name][key], p_values[name] = claim.interval.to_json(), claim.p
            else:
                claims[name][key] = gap.interval().to_json()
                tail = min(float((gap.draws <= 0).mean()), float((gap.draws >= 0).mean()))
                p_values[name] = min(1.0, 2 * (tail + 1 / len(gap.draws)))
        for name, adjusted in holm(p_values).items():
            claims[name][key] |= {"p": round(p_values[name], 5), "p_holm": round(adjusted, 5)}
    return claims


def mean_ranks(parts: Mapping[str, Any]) -> dict[str, float]:
    """Rank the methods on every measure of every part, and average: the joint comparison.

    :param parts: what :func:`compare` gave, of one or several settings.
    :return: mean rank by method, 1 is best; ties share theirs.
    """
    ranks: dict[str, list[float]] = {}
    for part in parts.values():
        for key in MEASURES:
            values = {name: round(f[key]["mean"], 4) for name, f in part["figures"].items()}
            sign = 1 if key in LOWER_IS_BETTER else -1
            for name, value in values.items():
                better = sum(sign * other < sign * value for other in values.values())
                equal = sum(other == value for other in values.values())
                ranks.setdefault(name, []).append(better + (equal + 1) / 2)
    return {name: round(float(np.mean(r)), 2) for name, r in sorted(ranks.items(), key=lambda p: np.mean(p[1]))}


def run(
    plan: Plan, folder: Path, work: Path, *, seed: int, by_cuts: Sequence[str] = (), only: str = ""
) -> dict[str, Any]:
    """Run a whole comparison.

    :param plan: what is compared.
    :param folder: what ``DARL_DATA`` names.
    :param work: where predictions are kept.
    :param seed: of everything random.
    :param by_cuts: methods whose grades come from cut-points.
    :param only: the one setting to train for; empty: all.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    result: dict[str, Any] = {"settings": {}}
    for setting in sets.SETTINGS.values():
        if only and setting.name != only:
            continue
        lab = Lab(setting, folder, work, seed=seed)
        print(f"{setting.name}: encoded after {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        stages = {}
        for stage, methods in plan.stages.items():
            threads = torch.get_num_threads()
            if stage == "head":
                torch.set_num_threads(1)  # a head of twelve features: more threads only wait for each other
            for number in range(plan.splits[stage]):
                for method in methods:
                    lab.tell(stage, method, number)
                print(f"{setting.name}, {stage}: split {number + 1} of {plan.splits[stage]} after "
                      f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)  # fmt: skip
            torch.set_num_threads(threads)
            stages[stage] = compare(lab, stage, plan, by_cuts=by_cuts)
        counts = {name: len(queries) for name, queries in {"ID": lab.inside, **lab.outside}.items()}
        result["settings"][setting.name] = {"queries": counts, "cutoff": setting.cutoff, "stages": stages}
    result["mean_ranks"] = {
        stage: mean_ranks({f"{s}/{part}": values for s, found in result["settings"].items()
                           for part, values in found["stages"][stage].items()})
        for stage in plan.stages
    }  # fmt: skip
    result["config"] = {
        "seed": seed, "splits": dict(plan.splits), "against": plan.against, "draws": DRAWS, "base": BASE.base,
        "query_cap": BASE.query_cap, "item_cap": BASE.item_cap, "items": sets.ITEMS, "encoder": "bf16",
        "gains": GAINS, "calibration_prior": PRIOR,
        "full_epochs": FULL_EPOCHS, "items_per_query": ITEMS_PER_QUERY, "by_cut_points": list(by_cuts),
        "methods": {stage: {m.name: dataclasses.asdict(m) for m in ms} for stage, ms in plan.stages.items()},
        "data": sets.digests(folder, sorted({f for s in sets.SETTINGS.values() for f in s.folders})),
    }  # fmt: skip
    result["circumstances"] = circumstances()
    result["seconds"] = round(time.perf_counter() - begin, 1)
    return result


def main(
    plan: Plan, description: str | None, render: Any, argv: list[str] | None, *, by_cuts: Sequence[str] = ()
) -> int:
    """Run from the command line.

    :param plan: what is compared.
    :param description: of the command.
    :param render: from a result to Markdown.
    :param argv: arguments; none: those of the process.
    :param by_cuts: methods whose grades come from cut-points.
    :return: exit code.
    """
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.quality.{plan.name}", description=description)
    for stage, count in plan.splits.items():
        parser.add_argument(f"--{stage}-splits", type=int, default=count, help=f"half-splits (default: {count})")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--work", type=Path, default=Path("runs") / "quality", help="where predictions are kept")
    parser.add_argument("--out", type=Path, default=here / "results" / f"{plan.name}.json", help="JSON to write")
    parser.add_argument("--only", choices=list(sets.SETTINGS), default="",
                        help="train for this setting, keep its predictions in --work, and write no result")  # fmt: skip
    args = parser.parse_args(argv)
    splits = {stage: getattr(args, f"{stage}_splits") for stage in plan.splits}
    if min(splits.values()) < 1:
        parser.error("a number of splits must be at least 1")
    try:
        plan = dataclasses.replace(plan, splits=splits)
        result = run(plan, data_folder(), args.work, seed=args.seed, by_cuts=by_cuts, only=args.only)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    if args.only:
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render(result))
    report.refresh()
    return 0
