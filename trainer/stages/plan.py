"""A run: a folder that says at any moment what is done, and goes on from there."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from darl_opensearch.bundle import replace_folder
from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.stats.numbers import rounded, without_nan
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.config import Config, parse_config
from trainer.data.judgments import JudgedQuery
from trainer.data.leakage import Part, check_leakage
from trainer.models import BACKBONES
from trainer.models.base import LAST
from trainer.models.continued import starting_model
from trainer.ood import DETECTORS, ConformalCalibration
from trainer.ood.calibration import check_count
from trainer.stages import STAGES, distributed
from trainer.stages.curves import draw
from trainer.stages.data import Features, Pairs, RunData, read_data
from trainer.stages.head_stage import calibrate_grades
from trainer.stages.objective import Objective, Predictions, metrics, predict
from trainer.stages.ood_stage import FittedOod, check_ood, fit_ood
from trainer.stages.registry import Context, Report, check_plan
from trainer.stages.robust import check_groups
from trainer.stages.verdict import verdict

CONFIG, DATA, RESULT, CHECKPOINT, CURVES = "config.json", "data.json", "result.json", "checkpoint", "curves.svg"
STAGES_FOLDER, STORE = "stages", "store.sqlite"
ROOT = "root.txt"  # where the data lay; a run that was moved is told by --data


@dataclass(frozen=True)
class Trained:
    """A finished run, loaded.

    :param model: the trained backbone, in evaluation mode.
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

    :param base: folder its paths are relative to.
    :param fresh: drop what the folder holds and start over.
    :param report: called with what is being done, steps done and steps in all.
    :raises InputError: when the folder holds a run of another configuration or other data.
    """
    torch.manual_seed(config.seed)
    report("loading the base model", 0, 1)
    model, data = prepare(config, base, store=folder / STORE)
    _first(lambda: _open_folder(folder, config, data, base, fresh=fresh), folder)
    if distributed.broadcast((folder / RESULT).is_file()):
        return load_run(folder)
    parts = {"train": data.sampled, "dev": data.dev, "new": data.new, "ood_dev": data.ood_dev}
    pairs = {role: data.judged(queries) for role, queries in parts.items() if queries}
    objective = Objective.make(config.loss, config.grades.scale.gains)
    features = Features(model, device=config.stages.device)
    result: dict[str, Any] = {"start": _figures(features, pairs["dev"], config), "stages": []}
    result["ndcg_intervals"] = {"start": _ndcg_interval(features, pairs["dev"], config)}
    start = _dev_ndcg(features, pairs["dev"], config) if config.loss.groups else {}
    if "ood_dev" in pairs:
        result["ood_dev_start"] = _figures(features, pairs["ood_dev"], config)
    context = Context(
        features, objective, config, data, pairs, base=base, run=folder, place=folder, later=(),
        weights_before=lambda stage: {}, report=report,
    )  # fmt: skip
    result["stages"] = _stages(context)
    report("calibrating grades", 0, 1)
    calibrate_grades(model.head, pairs["dev"], features.of(pairs["dev"]).similarity)
    result["dev"] = _figures(features, pairs["dev"], config)
    result["ndcg_intervals"]["dev"] = _ndcg_interval(features, pairs["dev"], config)
    if config.loss.groups:
        result["dev_slices"] = _by_slice(data.dev, start, _dev_ndcg(features, pairs["dev"], config))
    if "ood_dev" in pairs:
        result["ood_dev"] = _figures(features, pairs["ood_dev"], config)
    report("fitting the OOD detector", 0, 1)
    ood = fit_ood(features, config.ood, _learnt(data, result["stages"]))
    result["ood"] = ood.report
    _first(lambda: _finish(folder, model, ood, result), folder)
    return load_run(folder)


def prepare(config: Config, base: Path, *, store: Path | None = None) -> tuple[Any, RunData]:
    """Load and check everything: what is wrong must show before hours of training, not after.

    :param base: folder its paths are relative to.
    :param store: where data that memory does not hold are kept; None: in a temporary file.
    :return: the untrained model in evaluation mode, and the data.
    :raises DarlError: naming what cannot be trained on.
    """
    check_plan(config)
    make, _ = BACKBONES.resolve(config.model.backbone, {})
    Objective.make(config.loss, config.grades.scale.gains)
    check_ood(config.ood, make.halves)
    model = starting_model(config, base, make)
    data = read_data(config, base, model.tokenizer(), store=store)
    check_count(sum(len(item_ids) for _, item_ids in data.traffic), config.ood.alpha)
    check_groups(config.loss, data.train, where=str(base / config.data.judgments))
    if not config.data.allow_near:
        _check_near(config, data, base)
    for name in config.stages.run:
        STAGES[name].make().ready(config, base)
    model.fit_texts(item.text for item in data.items.values())
    return model, data


def _first(work: Callable[[], object], where: Path) -> None:
    """Have the first process write, and the others wait for it."""
    if distributed.is_main():
        try:
            work()
        except SafetensorError as err:  # what safetensors makes of a full disk
            todo = "see to the disk, then give the same command again: finished stages are kept"
            raise DarlError(f"weights cannot be written ({err})", where=str(where), todo=todo) from err
    distributed.barrier()


def _open_folder(folder: Path, config: Config, data: RunData, base: Path, *, fresh: bool) -> None:
    if fresh and (folder / CONFIG).is_file() and (folder / DATA).is_file():  # else config.json may be anybody's
        for entry in folder.iterdir():  # only now: an input that is refused must not cost the old run
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != STORE:  # just made from the data that there are now
                entry.unlink()
    _claim(folder, config, data)
    _write_text(folder / ROOT, str(base.resolve()))


def _check_near(config: Config, data: RunData, base: Path) -> None:
    """Refuse files whose queries read nearly alike; the same query is refused where they are read."""
    files = config.data
    parts = {
        role: Part.of_judged(str(base / name), queries)
        for role, name, queries in (
            ("train", files.judgments, data.in_memory), ("new", files.new, data.new),
            ("dev", files.dev, data.dev), ("ood_dev", files.ood_dev, data.ood_dev),
        )
        if name and queries
    }  # fmt: skip
    for known, held in (("train", "dev"), ("new", "dev"), ("train", "ood_dev"), ("new", "ood_dev"), ("dev", "ood_dev")):
        if known in parts and held in parts:
            try:
                check_leakage(parts[known], parts[held], allow=("query", "item", "near-item"))
            except InputError as err:
                todo = "keep both in one file (darl split does so), or set [data] allow_near = true"
                raise InputError(err.what, where=err.where, todo=todo) from err


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


@dataclass
class _Course:
    """How far a run has come.

    :param start: the untrained weights, where a stage to come asks for them.
    :param last: the weights as they are, where a stage has been kept.
    :param before: for each stage done, the weights before it; None: the untrained ones.
    """

    folder: Path
    start: dict[str, torch.Tensor]
    last: Path | None
    before: dict[str, Path | None]

    def weights_before(self, stage: str) -> dict[str, torch.Tensor]:
        """Weights before a stage; before the first for an empty name."""
        path = self.before.get(stage)
        return dict(self.start) if path is None else load_file(path)


def _stages(context: Context) -> list[dict[str, Any]]:
    """Run the stages in order."""
    config, model = context.config, context.model
    rewinds = any(STAGES[name].make.rewinds for name in config.stages.run)
    start = copy.deepcopy(model.state_dict()) if rewinds else {}
    course = _Course(context.run, start, None, {})
    outcomes = []
    for number, name in enumerate(config.stages.run):
        place = context.run / STAGES_FOLDER / f"{number}-{name}"
        course.before[name] = course.last
        later = config.stages.run[number + 1 :]
        outcome = _stage(
            name, dataclasses.replace(context, place=place, later=later, weights_before=course.weights_before)
        )
        if outcome["kept"]:
            course.last = place.with_suffix(".safetensors")
        outcomes.append(outcome)
    return outcomes


def _stage(name: str, context: Context) -> dict[str, Any]:
    """Run one stage unless it is done; keep it only where its dev gain exceeds one standard error."""
    features, config, place = context.features, context.config, context.place
    model, done = features.model, place.with_suffix(".json")
    if distributed.broadcast(done.is_file()):
        outcome: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if outcome["kept"]:
            model.load_state_dict(load_file(place.with_suffix(".safetensors")))
            features.forget()
        return outcome
    stage = STAGES[name].make()
    before_state, restore_features = copy.deepcopy(model.state_dict()), features.saved()
    roles = [role for role in stage.judged_on if role in context.pairs]
    before = [_dev_ndcg(features, context.pairs[role], config) for role in roles]
    context.report(f"stage {name}", 0, 1)
    brought = stage.run(context)
    after = [_dev_ndcg(features, context.pairs[role], config) for role in roles]
    gains = [[new[q] - old[q] for q in sorted(old)] for old, new in zip(before, after, strict=True)]
    gains[0] = [*brought.gains, *gains[0]]
    figures = {role: _figures(features, context.pairs[role], config) for role in roles}
    judged = distributed.broadcast(verdict([np.array(part) for part in gains], seed=config.seed))
    kept = judged.kept or bool(brought.decided)
    if not kept:
        model.load_state_dict(before_state)
        restore_features()
    outcome = {
        "stage": name, "kept": kept, "gain": judged.gain.to_json(), "judged_on": roles,
        "standard_error": rounded(judged.error),
        **({"decided_by": brought.decided} if brought.decided else {}),
        **({} if brought.learnt_new is None else {"learnt_new": brought.learnt_new}),
        **brought.figures, "figures": figures, "history": brought.history,
    }  # fmt: skip
    _first(lambda: _write_stage(place, outcome, model), place.parent)
    return outcome


def _write_stage(place: Path, outcome: dict[str, Any], model: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if outcome["kept"]:
        partial = place.with_suffix(".safetensors.tmp")
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, partial)
        partial.replace(place.with_suffix(".safetensors"))
    _write_text(place.with_suffix(".json"), json.dumps(without_nan(outcome), indent=2))
    shutil.rmtree(place, ignore_errors=True)  # the stage's own checkpoints served their purpose


def _learnt(data: RunData, outcomes: list[dict[str, Any]]) -> RunData:
    """What the kept weights have learnt from: the new samples only where they did."""
    said = [outcome["learnt_new"] for outcome in outcomes if outcome["kept"] and "learnt_new" in outcome]
    return data if said and said[-1] else dataclasses.replace(data, new=[])


def _dev_ndcg(features: Features, dev: Pairs, config: Config) -> dict[int, float]:
    predictions = predict(features.model.head, features.of(dev).similarity)
    _, gain, query_index = dev.numpy(config.grades.scale.gains)
    return ndcg_per_query(predictions.latent, gain, query_index, cutoff=config.stages.cutoff)


def _by_slice(
    dev: Sequence[JudgedQuery], start: Mapping[int, float], trained: Mapping[int, float]
) -> dict[str, dict[str, float]]:
    """Mean nDCG of the dev queries of each slice, untrained and trained."""
    places: dict[str, list[int]] = {}
    for place in sorted(start):
        places.setdefault(dev[place].slice, []).append(place)
    return {
        name: {
            "queries": len(found),
            "start": round(float(np.mean([start[q] for q in found])), 5),
            "trained": round(float(np.mean([trained[q] for q in found])), 5),
        }
        for name, found in sorted(places.items())
    }


def _ndcg_interval(features: Features, dev: Pairs, config: Config) -> dict[str, float | None]:
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
    if drawing := draw(result["stages"]):
        _write_text(folder / CURVES, drawing)
    _write_text(folder / RESULT, json.dumps(without_nan(result), indent=2))


def load_run(folder: Path) -> Trained:
    """Load a finished run.

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
    detector.restore(parts["detector"])
    calibration = ConformalCalibration(len(parts["calibration"]["distances"]))
    calibration.load_state_dict(parts["calibration"])
    layers = report.get("layers", LAST)  # runs of before there was a choice
    return FittedOod(detector.eval(), calibration.eval(), report["features"], report, layers)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
