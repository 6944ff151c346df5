"""A run from start to end: stages in order, each kept only where the dev set says so."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.stats.numbers import rounded
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer import distributed, run_folder
from trainer.config import Config
from trainer.data.leakage import Part, check_leakage
from trainer.models import BACKBONES
from trainer.models.continued import starting_model
from trainer.ood.calibration import check_count
from trainer.run_folder import Trained
from trainer.stages import STAGES
from trainer.stages.curves import draw
from trainer.stages.head_stage import calibrate_grades
from trainer.stages.objective import Objective, Predictions, metrics, predict
from trainer.stages.ood_stage import check_ood, fit_ood
from trainer.stages.registry import Context, Report, check_plan
from trainer.stages.robust import check_groups
from trainer.stages.verdict import verdict
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData, count_pairs


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
    model, data = prepare(config, base, store=folder / run_folder.STORE)
    write_on_main(lambda: run_folder.open_folder(folder, config, data.summary(), base, fresh=fresh), folder)
    if distributed.broadcast((folder / run_folder.RESULT).is_file()):
        return run_folder.load_run(folder)
    parts = {"train": data.sampled, "dev": data.dev, "new": data.new, "ood_dev": data.ood_dev}
    pairs = {role: data.judged(queries) for role, queries in parts.items() if queries}
    objective = Objective.make(config.loss, config.grades.scale.gains)
    features = Features(model, device=config.stages.device)
    result: dict[str, Any] = {"start": _figures(features, pairs["dev"], config), "stages": []}
    result["ndcg_intervals"] = {"start": _ndcg_interval(features, pairs["dev"], config)}
    start = measure_dev_ndcg(features, pairs["dev"], config) if config.loss.groups else {}
    if "ood_dev" in pairs:
        result["ood_dev_start"] = _figures(features, pairs["ood_dev"], config)
    context = Context(
        features, objective, config, data, pairs, base=base, run=folder, place=folder, later=(),
        weights_before=lambda stage: {}, report=report,
    )  # fmt: skip
    result["stages"] = _stages(context)
    report("calibrating grades", 0, 1)
    calibrate_grades(model.head, pairs["dev"], features.of(pairs["dev"]).head_input)
    result["dev"] = _figures(features, pairs["dev"], config)
    result["ndcg_intervals"]["dev"] = _ndcg_interval(features, pairs["dev"], config)
    if config.loss.groups:
        result["dev_slices"] = _by_slice(data.dev, start, measure_dev_ndcg(features, pairs["dev"], config))
    if "ood_dev" in pairs:
        result["ood_dev"] = _figures(features, pairs["ood_dev"], config)
    report("fitting the OOD detector", 0, 1)
    ood = fit_ood(features, config.ood, keep_learnt(data, result["stages"]))
    result["ood"] = ood.report
    write_on_main(lambda: run_folder.finish(folder, model, ood, result, curves=draw(result["stages"])), folder)
    return run_folder.load_run(folder)


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
    check_count(count_pairs(data.traffic), config.ood.alpha)
    check_groups(config.loss, data.train, where=str(base / config.data.judgments))
    if not config.data.allow_near:
        _check_near(config, data, base)
    for name in config.stages.run:
        STAGES[name].make().ready(config, base)
    model.fit_texts(item.text for item in data.items.values())
    return model, data


def write_on_main(work: Callable[[], object], where: Path) -> None:
    """Have the first process write, and the others wait for it."""
    if distributed.is_main():
        try:
            work()
        except SafetensorError as err:  # what safetensors makes of a full disk
            todo = "see to the disk, then give the same command again: finished stages are kept"
            raise DarlError(f"weights cannot be written ({err})", where=str(where), todo=todo) from err
    distributed.barrier()


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
        place = run_folder.stage_place(context.run, number, name)
        course.before[name] = course.last
        later = config.stages.run[number + 1 :]
        outcome = _stage(
            name, dataclasses.replace(context, place=place, later=later, weights_before=course.weights_before)
        )
        if outcome["kept"]:
            course.last = run_folder.weights_path(place)
        outcomes.append(outcome)
    return outcomes


def _stage(name: str, context: Context) -> dict[str, Any]:
    """Run one stage unless it is done; keep it only where its dev gain exceeds one standard error."""
    features, config, place = context.features, context.config, context.place
    model, finished = features.model, distributed.broadcast(run_folder.read_stage(place))
    if finished is not None:
        if finished["kept"]:
            model.load_state_dict(load_file(run_folder.weights_path(place)))
            features.forget()
        return finished
    stage = STAGES[name].make()
    before_state, restore_features = copy.deepcopy(model.state_dict()), features.saved()
    roles = [role for role in stage.judged_on if role in context.pairs]
    before = [measure_dev_ndcg(features, context.pairs[role], config) for role in roles]
    context.report(f"stage {name}", 0, 1)
    brought = stage.run(context)
    after = [measure_dev_ndcg(features, context.pairs[role], config) for role in roles]
    gains = [[new[q] - old[q] for q in sorted(old)] for old, new in zip(before, after, strict=True)]
    gains[0] = [*brought.gains, *gains[0]]
    figures = {role: _figures(features, context.pairs[role], config) for role in roles}
    judged = distributed.broadcast(verdict([np.array(part) for part in gains], seed=config.seed))
    kept = judged.kept or bool(brought.decided)
    if not kept:
        model.load_state_dict(before_state)
        restore_features()
    outcome: dict[str, Any] = {
        "stage": name, "kept": kept, "gain": judged.gain.to_json(), "judged_on": roles,
        "standard_error": rounded(judged.error),
        **({"decided_by": brought.decided} if brought.decided else {}),
        **({} if brought.learnt_new is None else {"learnt_new": brought.learnt_new}),
        **brought.figures, "figures": figures, "history": brought.history,
    }  # fmt: skip
    write_on_main(lambda: run_folder.write_stage(place, outcome, model), place.parent)
    return outcome


def keep_learnt(data: RunData, outcomes: list[dict[str, Any]]) -> RunData:
    """Keep what the kept weights have learnt from: the new samples only where they did."""
    said = [outcome["learnt_new"] for outcome in outcomes if outcome["kept"] and "learnt_new" in outcome]
    return data if said and said[-1] else dataclasses.replace(data, new=[])


def measure_dev_ndcg(features: Features, dev: Pairs, config: Config) -> dict[int, float]:
    """Measure nDCG of each dev query that has one, by its place."""
    predictions = predict(features.model.head, features.of(dev).head_input)
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
    values = np.array(list(measure_dev_ndcg(features, dev, config).values()))
    return bootstrap_mean(values, seed=config.seed).to_json()


def _figures(features: Features, pairs: Pairs, config: Config) -> dict[str, Any]:
    predictions: Predictions = predict(features.model.head, features.of(pairs).head_input)
    return metrics(predictions, pairs, config.grades.scale.gains, cutoff=config.stages.cutoff)
