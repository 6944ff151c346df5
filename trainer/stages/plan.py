"""A run: a folder that says at any moment what is done, and goes on from there."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from darl_opensearch.bundle import replace_folder
from darl_opensearch.errors import DarlError, InputError
from trainer.config import Config, parse_config
from trainer.evaluate.bootstrap import bootstrap_mean
from trainer.evaluate.metrics import ndcg_per_query
from trainer.losses import GRADE_LOSSES
from trainer.models import BACKBONES
from trainer.ood import DETECTORS, ConformalCalibration
from trainer.ood.calibration import check_count
from trainer.stages.data import Features, Pairs, RunData, read_data
from trainer.stages.full_stage import full_stage
from trainer.stages.head_stage import calibrate_grades, cross_fitted_latent, fit_head
from trainer.stages.objective import Objective, Predictions, metrics, predict
from trainer.stages.ood_stage import FittedOod, fit_ood

CONFIG, DATA, RESULT, CHECKPOINT, STAGES = "config.json", "data.json", "result.json", "checkpoint", "stages"
ROOT = "root.txt"  # where the data lay; a run that was moved is told by --data
Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Trained:
    """A finished run, loaded.

    :param folder: the run's folder.
    :param config: its resolved configuration.
    :param model: the trained backbone, in evaluation mode.
    :param ood: detector and calibration.
    :param result: figures of every stage.
    :param data: counts and digests of what it read.
    """

    folder: Path
    config: Config
    model: Any
    ood: FittedOod
    result: dict[str, Any]
    data: dict[str, Any]


def train(
    config: Config,
    base: Path,
    folder: Path,
    *,
    fresh: bool = False,
    report: Report = lambda what, done, total: None,
) -> Trained:
    """Train, or go on training, or load what is trained already.

    :param config: the configuration.
    :param base: folder its paths are relative to.
    :param folder: the run's folder.
    :param fresh: drop what the folder holds and start over.
    :param report: called with what is being done, steps done and steps in all.
    :return: the finished run.
    :raises InputError: when the folder holds a run of another configuration or other data.
    """
    torch.manual_seed(config.seed)
    report("loading the base model", 0, 1)
    model, data = prepare(config, base)
    if fresh and (folder / CONFIG).is_file() and (folder / DATA).is_file():  # else config.json may be anybody's
        shutil.rmtree(folder)  # only now: an input that is refused must not cost the old run
    _claim(folder, config, data)
    _write_text(folder / ROOT, str(base.resolve()))
    if (folder / RESULT).is_file():
        return load_run(folder)
    pairs = {"train": data.judged(data.train), "dev": data.judged(data.dev)}
    objective = Objective.make(config.loss, config.grades.scale.gains)
    features = Features(model)
    result: dict[str, Any] = {"start": _figures(features, pairs["dev"], config), "stages": []}
    result["ndcg_intervals"] = {"start": _ndcg_interval(features, pairs["dev"], config)}
    for number, name in enumerate(config.stages.run):
        place = folder / STAGES / f"{number}-{name}"
        result["stages"].append(_stage(name, features, objective, config, pairs, place, report))
    report("calibrating grades", 0, 1)
    calibrate_grades(model.head, pairs["dev"], features.of(pairs["dev"]).similarity)
    result["dev"] = _figures(features, pairs["dev"], config)
    result["ndcg_intervals"]["dev"] = _ndcg_interval(features, pairs["dev"], config)
    report("fitting the OOD detector", 0, 1)
    ood = fit_ood(features, config.ood, data)
    result["ood"] = ood.report
    _finish(folder, model, ood, result)
    return load_run(folder)


def prepare(config: Config, base: Path) -> tuple[Any, RunData]:
    """Load and check everything: what is wrong must show before hours of training, not after.

    :param config: the configuration.
    :param base: folder its paths are relative to.
    :return: the untrained model in evaluation mode, and the data.
    :raises DarlError: naming what cannot be trained on.
    """
    make, _ = BACKBONES.resolve(config.model.backbone, {})
    Objective.make(config.loss, config.grades.scale.gains)
    DETECTORS.resolve(config.ood.detector, config.ood.params)
    model = make.from_base(config, GRADE_LOSSES[config.loss.grade].needs)
    data = read_data(config, base, model.tokenizer())
    check_count(sum(len(item_ids) for _, item_ids in data.traffic), config.ood.alpha)
    model.fit_texts(item.text for item in data.items.values())
    return model, data


def _claim(folder: Path, config: Config, data: RunData) -> None:
    """Write what the run is, or compare with what it was."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in ((CONFIG, config.to_json()), (DATA, data.summary())):
        path, text = folder / name, json.dumps(value, indent=2, sort_keys=True)
        if path.is_file():
            if path.read_text(encoding="utf-8") != text:
                what = "configuration" if name == CONFIG else "data"
                raise InputError(
                    f"the folder holds a run with another {what}",
                    where=str(path),
                    todo="name another folder with --run, or pass --fresh to start over",
                )
        else:
            _write_text(path, text)


def _stage(
    name: str,
    features: Features,
    objective: Objective,
    config: Config,
    pairs: dict[str, Pairs],
    place: Path,
    report: Report,
) -> dict[str, Any]:
    """Run one stage unless it is done; keep it only where its dev gain exceeds one standard error."""
    model, done = features.model, place.with_suffix(".json")
    if done.is_file():
        outcome: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if outcome["kept"]:
            model.load_state_dict(load_file(place.with_suffix(".safetensors")))
            features.forget()
        return outcome
    before_state, restore_features = copy.deepcopy(model.state_dict()), features.saved()
    before = _dev_ndcg(features, pairs["dev"], config)
    report(f"stage {name}", 0, 1)
    if name == "head":
        gains, history = _head(features, objective, config, pairs, report)
    else:
        gains = {}
        stage = full_stage(
            model, objective, config.stages, pairs["train"], pairs["dev"], seed=config.seed, folder=place
        )
        history = stage.run(lambda step, total: report("stage full", step, total))
        features.forget()
    after = _dev_ndcg(features, pairs["dev"], config)
    gain = np.array([*gains.values(), *(after[q] - before[q] for q in sorted(before))])
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
    kept = bool(len(gain) and gain.mean() > error)
    if not kept:
        model.load_state_dict(before_state)
        restore_features()
    outcome = {
        "stage": name, "kept": kept, "gain": bootstrap_mean(gain, seed=config.seed).to_json(),
        "standard_error": round(error, 5) if np.isfinite(error) else None, "history": history,
    }  # fmt: skip
    place.parent.mkdir(parents=True, exist_ok=True)
    if kept:
        partial = place.with_suffix(".safetensors.tmp")
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, partial)
        partial.replace(place.with_suffix(".safetensors"))
    _write_text(done, json.dumps(without_nan(outcome), indent=2))
    shutil.rmtree(place, ignore_errors=True)  # the stage's own checkpoints served their purpose
    return outcome


def _head(
    features: Features, objective: Objective, config: Config, pairs: dict[str, Pairs], report: Report
) -> tuple[dict[int, float], list[dict[str, float]]]:
    """Fit the head; its gain on the training queries is measured out of fold."""
    head, limits = features.model.head, config.stages
    train, dev = ((pairs[part], features.of(pairs[part]).similarity) for part in ("train", "dev"))
    held_out = cross_fitted_latent(
        head, objective, train, dev, steps=limits.head_steps, patience=limits.patience
    ).numpy()
    _, gain, query_index = pairs["train"].numpy(config.grades.scale.gains)
    start = predict(head, train[1]).latent
    before, after = (ndcg_per_query(s, gain, query_index, cutoff=limits.cutoff) for s in (start, held_out))
    history = fit_head(
        head, objective, train, dev, steps=limits.head_steps, patience=limits.patience,
        advance=lambda step, loss: report("stage head", step + 1, limits.head_steps),
    )  # fmt: skip
    return {q: after[q] - before[q] for q in before}, history


def _dev_ndcg(features: Features, dev: Pairs, config: Config) -> dict[int, float]:
    predictions = predict(features.model.head, features.of(dev).similarity)
    _, gain, query_index = dev.numpy(config.grades.scale.gains)
    return ndcg_per_query(predictions.latent, gain, query_index, cutoff=config.stages.cutoff)


def _ndcg_interval(features: Features, dev: Pairs, config: Config) -> dict[str, float | int]:
    values = np.array(list(_dev_ndcg(features, dev, config).values()))
    return bootstrap_mean(values, seed=config.seed).to_json()


def _figures(features: Features, pairs: Pairs, config: Config) -> dict[str, Any]:
    predictions: Predictions = predict(features.model.head, features.of(pairs).similarity)
    return metrics(predictions, pairs, config.grades.scale.gains, cutoff=config.stages.cutoff)


def _finish(folder: Path, model: Any, ood: FittedOod, result: dict[str, Any]) -> None:
    """Write the checkpoint, then the result: a run is finished when its result is there."""
    work = folder / f".{CHECKPOINT}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    model.save(work)
    tensors = {f"detector.{n}": t for n, t in ood.detector.state_dict().items()}
    tensors |= {f"calibration.{n}": t for n, t in ood.calibration.state_dict().items()}
    save_file({n: t.contiguous() for n, t in tensors.items()}, work / "ood.safetensors")
    (work / "ood.json").write_text(json.dumps(ood.report, indent=2), encoding="utf-8")
    replace_folder(work, folder / CHECKPOINT)
    _write_text(folder / RESULT, json.dumps(without_nan(result), indent=2))


def load_run(folder: Path) -> Trained:
    """Load a finished run.

    :param folder: the run's folder.
    :return: model, detector, figures.
    :raises DarlError: when it is not one, or not finished.
    """
    if not (folder / RESULT).is_file():
        state = "has not finished" if (folder / CONFIG).is_file() else "is not there"
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

    :param folder: the run's folder.
    :return: the folder.
    :raises DarlError: when it is not there any more.
    """
    recorded = folder / ROOT
    root = Path(recorded.read_text(encoding="utf-8")) if recorded.is_file() else Path()
    if not recorded.is_file() or not root.is_dir():
        raise DarlError("the training data are not where they were", where=str(folder), todo="name them with --data")
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
    for name, value in parts["detector"].items():
        setattr(detector, name, value)  # the reference's height is not known before
    calibration = ConformalCalibration(len(parts["calibration"]["distances"]))
    calibration.load_state_dict(parts["calibration"])
    return FittedOod(detector.eval(), calibration.eval(), report["features"], report)


def without_nan(value: Any) -> Any:
    """Say null where there is no number: JSON knows no NaN, and a figure of nothing is none.

    :param value: JSON-ready values.
    :return: the same, None in place of each float that is not finite.
    """
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
