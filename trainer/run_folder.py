"""The folder of a run; its files tell at any moment which stages are done."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.io.writing import new_file, new_folder, write_file
from darl_opensearch.stats.numbers import replace_nan
from trainer.config import Config, parse_config
from trainer.models import BACKBONES
from trainer.models.base import LAST
from trainer.ood import DETECTORS, ConformalCalibration
from trainer.ood.fitted import FittedOod

CONFIG, DATA, RESULT, CHECKPOINT = "config.json", "data.json", "result.json", "checkpoint"
STAGES_FOLDER, STORE = "stages", "store.sqlite"
ROOT = "root.txt"  # folder of the data; --data overrides it


@dataclass(frozen=True)
class Trained:
    """A finished run, loaded.

    :param model: the trained backbone, in evaluation mode.
    """

    folder: Path
    config: Config
    model: Any
    ood: FittedOod
    result: dict[str, Any]
    data: dict[str, Any]


def open_folder(folder: Path, config: Config, data: dict[str, Any], base: Path, *, fresh: bool) -> None:
    """Write configuration and data of a run, or compare them with those of the run to resume.

    :param base: folder that the configuration's paths are relative to.
    :param fresh: delete an earlier run first.
    :raises InputError: if the folder holds a run with another configuration or other data.
    """
    if fresh and (folder / CONFIG).is_file() and (folder / DATA).is_file():  # else config.json may not be ours
        for entry in folder.iterdir():  # only now: refused inputs must not cost the old run
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != STORE:  # just rebuilt from the current data
                entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in ((CONFIG, config.to_json()), (DATA, data)):
        path, text = folder / name, json.dumps(value, indent=2, sort_keys=True)
        if path.is_file():
            before = path.read_text(encoding="utf-8")
            if (_complete(before) if name == CONFIG else before) != text:
                what = "configuration" if name == CONFIG else "data"
                raise InputError(
                    f"the folder holds a run with another {what}",
                    where=str(path),
                    todo="choose another folder with --run, or pass --fresh to start over",
                )
        else:
            write_file(path, text, fixed_name=True)
    write_file(folder / ROOT, str(base.resolve()), fixed_name=True)


def _complete(text: str) -> str:
    """Add the defaults of keys that a stored configuration's version did not know; leave a file of others as it is."""
    try:
        config = parse_config(json.loads(text), where=CONFIG)
    except (DarlError, ValueError):
        return text
    return json.dumps(config.to_json(), indent=2, sort_keys=True)


def stage_place(folder: Path, number: int, name: str) -> Path:
    """Folder of a stage's checkpoints; its outcome and kept weights are files beside it."""
    return folder / STAGES_FOLDER / f"{number}-{name}"


def weights_path(place: Path) -> Path:
    """File with the weights of a stage that was kept."""
    return place.with_suffix(".safetensors")


def read_stage(place: Path) -> dict[str, Any] | None:
    """Read the outcome of a stage; None while it is not finished."""
    path = place.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_stage(place: Path, outcome: dict[str, Any], model: Any) -> None:
    """Write a finished stage's weights, if kept, then its outcome, and delete its checkpoints."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if outcome["kept"]:
        with new_file(weights_path(place), fixed_name=True) as work:
            save_file({n: t.contiguous() for n, t in model.state_dict().items()}, work)
    write_file(place.with_suffix(".json"), json.dumps(replace_nan(outcome), indent=2), fixed_name=True)
    shutil.rmtree(place, ignore_errors=True)


def finish(folder: Path, model: Any, ood: FittedOod, result: dict[str, Any]) -> None:
    """Write the checkpoint, then the result, which marks the run as finished."""
    with new_folder(folder / CHECKPOINT, replace=True, fixed_name=True) as work:
        model.save(work)
        tensors = {f"detector.{n}": t for n, t in ood.detector.state_dict().items()}
        tensors |= {f"calibration.{n}": t for n, t in ood.calibration.state_dict().items()}
        save_file({n: t.contiguous() for n, t in tensors.items()}, work / "ood.safetensors")
        (work / "ood.json").write_text(json.dumps(ood.report, indent=2), encoding="utf-8")
    write_file(folder / RESULT, json.dumps(replace_nan(result), indent=2), fixed_name=True)


def load_run(folder: Path) -> Trained:
    """Load a finished run.

    :raises DarlError: if there is none, or it is not finished.
    """
    if not (folder / RESULT).is_file():
        state = "has not finished" if (folder / CONFIG).is_file() else "does not exist"
        raise DarlError(f"the run {state}", where=str(folder), todo="run darl train with --run naming this folder")
    config = parse_config(json.loads((folder / CONFIG).read_text(encoding="utf-8")), where=str(folder / CONFIG))
    make, _ = BACKBONES.resolve(config.model.backbone, {})
    checkpoint = folder / CHECKPOINT
    return Trained(
        folder, config, make.load(checkpoint), _load_ood(checkpoint),
        json.loads((folder / RESULT).read_text(encoding="utf-8")),
        json.loads((folder / DATA).read_text(encoding="utf-8")),
    )  # fmt: skip


def data_root(folder: Path) -> Path:
    """Folder that the configuration's paths were relative to.

    :raises DarlError: if it no longer exists.
    """
    recorded = folder / ROOT
    root = Path(recorded.read_text(encoding="utf-8")) if recorded.is_file() else Path()
    if not recorded.is_file() or not root.is_dir():
        raise DarlError("the training data have moved", where=str(folder), todo="pass their folder with --data")
    return root


def _load_ood(checkpoint: Path) -> FittedOod:
    report = json.loads((checkpoint / "ood.json").read_text(encoding="utf-8"))
    tensors = load_file(checkpoint / "ood.safetensors")
    parts: dict[str, dict[str, torch.Tensor]] = {"detector": {}, "calibration": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    make, params = DETECTORS.resolve(report["detector"], report["params"])
    detector = make(report["width"], halves=report["halves"], **params)
    detector.restore(parts["detector"])
    calibration = ConformalCalibration(len(parts["calibration"]["distances"]))
    calibration.load_state_dict(parts["calibration"])
    layers = report.get("layers", LAST)  # older runs had no choice
    return FittedOod(detector.eval(), calibration.eval(), report["features"], report, layers)
