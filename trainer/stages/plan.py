"""A training run: stages in order, each kept only if it improves on the dev set, then calibration."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.numbers import round_figure
from trainer import distributed, run_folder
from trainer.config import Config
from trainer.data.leakage import Part, check_leakage
from trainer.models import BACKBONES
from trainer.models.continued import BUNDLE, load_starting_model
from trainer.models.device import choose_device
from trainer.ood.calibration import check_count
from trainer.run_folder import Trained
from trainer.stages import STAGES
from trainer.stages.calibrated import calibrate_afresh, calibrate_grades, measure_current
from trainer.stages.cross_validation import cross_validate
from trainer.stages.dev_sets import dev_sets, measure_grading, measure_order
from trainer.stages.objective import Objective, measure_ndcg, measure_pairs
from trainer.stages.ood_stage import check_ood, fit_ood, measure_flagged
from trainer.stages.registry import Context, Report, check_plan
from trainer.stages.robust import check_groups
from trainer.stages.served import choose_chunks
from trainer.stages.thresholds import measure_thresholds
from trainer.stages.verdict import Verdict, average_gains
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData, count_pairs

START = {"dev": "start", "ood_dev": "ood_dev_start", "gap": "gap_start"}  # intervals of the untrained model


def train(
    config: Config,
    base: Path,
    folder: Path,
    *,
    fresh: bool = False,
    report: Report = lambda what, done, total: None,
) -> Trained:
    """Train, resume, or load a finished run.

    :param base: folder that the configuration's paths are relative to.
    :param fresh: delete an earlier run in the folder and start over.
    :param report: called with what is being done, steps done and steps in all.
    :raises InputError: if the folder holds a run with another configuration or other data.
    """
    torch.manual_seed(config.seed)
    report("loading the base model", 0, 1)
    model, data = prepare(config, base, store=folder / run_folder.STORE)
    write_on_main(lambda: run_folder.open_folder(folder, config, data.summary(), base, fresh=fresh), folder)
    if distributed.broadcast((folder / run_folder.RESULT).is_file()):
        return run_folder.load_run(folder)
    roles = {"train": data.sampled, "dev": data.dev, "new": data.new, "ood_dev": data.ood_dev}
    pairs = {role: data.judged(queries) for role, queries in roles.items() if queries}
    whole = {role: data.judged(roles[role], whole=True) for role in ("dev", "ood_dev") if role in pairs}
    objective = Objective.make(config.loss, config.grades.scale.gains)
    report("measuring the base model", 0, 1)
    features = Features(model, device=config.stages.device)

    def serve() -> dict[str, Pairs]:
        return {role: choose_chunks(features, part, data.chunks) for role, part in whole.items()}

    served = serve()
    result: dict[str, Any] = {"start": measure_pairs(features, served["dev"], config), "stages": []}
    intervals = {START[role]: interval for role, interval in measure_order(features, served, config).items()}
    start = measure_ndcg(features, served["dev"], config) if config.loss.groups else {}
    if "ood_dev" in pairs:
        result["ood_dev_start"] = measure_pairs(features, served["ood_dev"], config)
    untrained = copy.deepcopy(model.head.state_dict())
    result["stages"] = _run_stages(Context(features, objective, config, data, pairs, base, folder, report))
    report("calibrating grades", 0, 1)
    head = model.head.state_dict()
    learnt = not all(torch.equal(head[name], value) for name, value in untrained.items())
    calibrate = calibrate_grades if learnt or config.model.base.startswith(BUNDLE) else calibrate_afresh
    served = serve()
    calibrate(model.head, served["dev"], features.of(served["dev"]).head_input)
    if (after := serve())["dev"].digest != served["dev"].digest:  # with some heads calibration reorders chunks
        served = after
        calibrate_grades(model.head, served["dev"], features.of(served["dev"]).head_input)
        served = serve()
    result["dev"] = measure_pairs(features, served["dev"], config)
    result["ndcg_intervals"] = intervals | measure_order(features, served, config)
    if config.loss.groups:
        result["dev_slices"] = _compare_slices(data.dev, start, measure_ndcg(features, served["dev"], config))
    if "ood_dev" in pairs:
        result["ood_dev"] = measure_pairs(features, served["ood_dev"], config)
    result["grading"] = measure_grading(features, served, config)
    result["thresholds"] = measure_thresholds(features, served["dev"], config)
    report("fitting the OOD detector", 0, 1)
    learnt_from = keep_learnt(data, result["stages"])
    ood = fit_ood(features, config.ood, learnt_from)
    flagged = measure_flagged(features, config.ood, learnt_from, served, seed=config.seed)
    result["ood"] = ood.report | {"flagged": flagged}
    write_on_main(lambda: run_folder.finish(folder, model, ood, result), folder)
    return run_folder.load_run(folder)


def prepare(config: Config, base: Path, *, store: Path | None = None) -> tuple[Any, RunData]:
    """Load and check everything, so that errors show before hours of training.

    :param base: folder that the configuration's paths are relative to.
    :param store: file for data that exceed memory; None: a temporary file.
    :return: the untrained model in evaluation mode, and the data.
    :raises DarlError: for anything that cannot be trained on.
    """
    model = load_model(config, base)
    data = read_data(config, base, model.tokenizer(), store=store)
    check_data(config, data, where=str(base / config.data.judgments))
    if not config.data.allow_near:
        _check_near(config, data, base)
    model.fit_texts(item.text for item in data.items.values())
    return model, data


def load_model(config: Config, base: Path) -> Any:
    """Check everything that needs no data, and load the untrained model in evaluation mode.

    :param base: folder that the configuration's paths are relative to.
    :raises DarlError: for a model that does not fit the configuration, or a stage that could not run.
    """
    check_plan(config)
    choose_device(config.stages.device)
    make, _ = BACKBONES.resolve(config.model.backbone, {})
    Objective.make(config.loss, config.grades.scale.gains)
    check_ood(config.ood, make.halves)
    for name in config.stages.run:
        STAGES[name].make().ready(config, base)
    return load_starting_model(config, base, make)


def check_data(config: Config, data: RunData, *, where: str) -> None:
    """Refuse too few pairs to calibrate the OOD score on, and a loss by group where there is one group.

    :param where: the file of judgments, named in the error.
    """
    check_count(count_pairs(data.traffic), config.ood.alpha)
    check_groups(config.loss, data.train, where=where)


def write_on_main(work: Callable[[], object], where: Path) -> None:
    """Write in the first process, while the others wait."""
    if distributed.is_main():
        try:
            work()
        except SafetensorError as err:  # safetensors reports a full disk so
            todo = "free disk space, then run the same command again: finished stages are kept"
            raise DarlError(f"weights cannot be written ({err})", where=str(where), todo=todo) from err
    distributed.barrier()


def _check_near(config: Config, data: RunData, base: Path) -> None:
    """Refuse near-duplicate queries across files; identical ones are refused when the files are read."""
    files = config.data
    parts = {
        role: Part.of_judged(str(base / name), queries)
        for role, name, queries in (
            ("train", files.judgments, data.in_memory), ("new", files.new, data.new),
            ("dev", files.dev, data.dev), ("ood_dev", files.ood_dev, data.ood_dev),
        )
        if name and queries
    }  # fmt: skip
    disjoint = (("train", "dev"), ("new", "dev"), ("train", "ood_dev"), ("new", "ood_dev"), ("dev", "ood_dev"))
    for learnt, held_out in disjoint:
        if learnt in parts and held_out in parts:
            try:
                check_leakage(parts[learnt], parts[held_out], allow=("query", "item", "near-item"))
            except InputError as err:
                todo = "keep both in one file (darl split does so), or set [data] allow_near = true"
                raise InputError(err.what, where=err.where, todo=todo) from err


def _run_stages(context: Context) -> list[dict[str, Any]]:
    """Run the stages in order."""
    untrained = copy.deepcopy(context.model.state_dict())
    latest: Path | None = None  # weights of the last stage that was kept
    before: dict[str, Path | None] = {}

    def weights_before(stage: str) -> dict[str, torch.Tensor]:
        path = before.get(stage)
        return dict(untrained) if path is None else load_file(path)

    outcomes: list[dict[str, Any]] = []
    for number, name in enumerate(context.config.stages.run):
        before[name] = latest
        stage_context = dataclasses.replace(context, number=number, weights_before=weights_before)
        kept = [n for n, outcome in enumerate(outcomes) if outcome["kept"]]
        outcomes.append(_run_stage(stage_context, kept))
        if outcomes[-1]["kept"]:
            latest = run_folder.weights_path(stage_context.place)
    return outcomes


def _run_stage(context: Context, kept_before: Sequence[int]) -> dict[str, Any]:
    """Run one stage unless it is done; keep it only if grades or order gain clearly and neither clearly loses.

    :param kept_before: numbers of the earlier stages that were kept.
    """
    features, model, config, name, place = (
        context.features, context.model, context.config, context.name, context.place,
    )  # fmt: skip
    finished = distributed.broadcast(run_folder.read_stage(place))
    if finished is not None:
        if finished["kept"]:
            model.load_state_dict(load_file(run_folder.weights_path(place)))
            features.forget()
        return finished
    stage = STAGES[name].make()
    before_state, restore_features = copy.deepcopy(model.state_dict()), features.remember()
    pairs = {role: context.pairs[role] for role in stage.judged_on if role in context.pairs}
    before = [measure_current(features, part, config) for part in pairs.values()]
    context.report(f"stage {name}", 0, 1)
    outcome = stage.run(context)
    gains = [
        old.gains_to(measure_current(features, part, config)) for old, part in zip(before, pairs.values(), strict=True)
    ]
    shown = dev_sets(context.pairs)
    figures = {role: measure_pairs(features, part, config) for role, part in shown.items()}
    order = measure_order(features, shown, config)
    out_of_fold = outcome.gains
    if stage.cross_validated:
        out_of_fold += cross_validate(context, kept_before)
    gains[0] = out_of_fold + gains[0]
    rps = average_gains([np.array(part.rps) for part in gains], seed=config.seed)
    ndcg = average_gains([np.array(part.ndcg) for part in gains], seed=config.seed)
    verdict = distributed.broadcast(Verdict(rps, ndcg))
    kept = verdict.kept or bool(outcome.decided)
    if not kept:
        model.load_state_dict(before_state)
        restore_features()
    result: dict[str, Any] = {
        "stage": name, "kept": kept,
        "rps_gain": verdict.rps.interval.to_json(), "rps_standard_error": round_figure(verdict.rps.error),
        "gain": verdict.ndcg.interval.to_json(), "standard_error": round_figure(verdict.ndcg.error),
        "judged_on": list(pairs), "out_of_fold": len(out_of_fold.rps),
        **({"decided_by": outcome.decided} if outcome.decided else {}),
        **({} if outcome.learnt_new is None else {"learnt_new": outcome.learnt_new}),
        **outcome.figures, "figures": figures, "ndcg_intervals": order, "history": outcome.history,
    }  # fmt: skip
    write_on_main(lambda: run_folder.write_stage(place, result, model), place.parent)
    return result


def keep_learnt(data: RunData, outcomes: list[dict[str, Any]]) -> RunData:
    """Reduce the data to those that the kept weights have learnt from, with or without the new samples."""
    decisions = [outcome["learnt_new"] for outcome in outcomes if outcome["kept"] and "learnt_new" in outcome]
    return data if decisions and decisions[-1] else dataclasses.replace(data, new=[])


def _compare_slices(
    dev: Sequence[JudgedQuery], start: Mapping[int, float], trained: Mapping[int, float]
) -> dict[str, dict[str, float]]:
    """Compare the mean nDCG of the dev queries of each slice before and after training."""
    queries_of: dict[str, list[int]] = {}
    for query in sorted(start):
        queries_of.setdefault(dev[query].slice, []).append(query)
    return {
        name: {
            "queries": len(queries),
            "start": round(float(np.mean([start[q] for q in queries])), 5),
            "trained": round(float(np.mean([trained[q] for q in queries])), 5),
        }
        for name, queries in sorted(queries_of.items())
    }
