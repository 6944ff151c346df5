"""The gain of a stage on training queries that it has not learnt from, where dev queries are too few to tell."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence

from torch import Tensor

from darl_opensearch.io.writing import write_file
from darl_opensearch.records.judgments import JudgedQuery
from trainer import distributed
from trainer.stages.calibrated import Gains, QueryFigures, measure_held_out
from trainer.stages.registry import STAGES, Context
from trainer.training_data.features import Features
from trainer.training_data.run_data import can_learn_from

ENOUGH_DEV = 150


def cross_validate(context: Context, before: Sequence[int]) -> Gains:
    """Run a stage without each fold of the training queries in turn, and measure the gains on that fold.

    The stages before it are run again without that fold, too: weights that have learnt from it could show no gain. The
    model ends with the weights that it has.

    :param before: numbers of the earlier stages that were kept.
    :return: the gains; none if there are enough dev queries, or too few training queries, or more than fit into memory.
    """
    data, train, folds = context.data, context.data.train, context.config.stages.folds
    if len(data.dev) >= ENOUGH_DEV or len(data.sampled) < len(train):
        return Gains()
    parts = [
        [[train[n] for n in range(len(train)) if (n % folds == fold) is inside] for inside in (True, False)]
        for fold in range(folds)
    ]
    if not all(held_out and can_learn_from(others) for held_out, others in parts):
        return Gains()
    start, after, gains = context.weights_before(""), copy.deepcopy(context.model.state_dict()), Gains()
    for fold, (held_out, others) in enumerate(parts):
        gains += _measure_fold(context, start, before, fold, held_out, others)
    context.model.load_state_dict(after)
    return gains


def _measure_fold(
    context: Context, start: Mapping[str, Tensor], before: Sequence[int], fold: int,
    held_out: Sequence[JudgedQuery], others: Sequence[JudgedQuery],
) -> Gains:  # fmt: skip
    """Measure one fold, or read what was measured before an interruption."""
    place = context.place / f"fold-{fold}"
    done = place / "gains.json"
    found = distributed.broadcast(json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None)
    if found is not None:
        return Gains(**found)
    model, config = context.model, context.config
    name = f"fold {fold + 1} of {config.stages.folds}"
    model.load_state_dict(start)
    features = Features(model, device=config.stages.device)
    data = dataclasses.replace(context.data, train=others, sample=None)
    pairs, dev = context.data.judged(held_out), context.pairs["dev"]
    fold_context = dataclasses.replace(
        context, features=features, data=data, pairs={**context.pairs, "train": data.judged(others)}, run=place,
        report=lambda what, done, total: context.report(f"{what}, {name}", done, total),
    )  # fmt: skip

    def measure() -> QueryFigures:
        own, calibrating = ((part, features.of(part).head_input) for part in (pairs, dev))
        gains, cutoff = config.grades.scale.gains, config.stages.cutoff
        return measure_held_out(model.head, own, calibrating, gains, cutoff=cutoff)

    def run(number: int) -> None:
        stage_context = dataclasses.replace(fold_context, number=number)
        STAGES[stage_context.name].make().run(stage_context)

    for number in before:
        run(number)
    earlier = measure()
    run(context.number)
    gains = earlier.gains_to(measure())
    if distributed.is_main():
        place.mkdir(parents=True, exist_ok=True)
        write_file(done, json.dumps(dataclasses.asdict(gains)), fixed_name=True)
    distributed.barrier()
    return gains
