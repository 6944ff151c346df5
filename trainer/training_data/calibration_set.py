"""Items set aside for the OOD calibration, for when nearly all items that held-out queries retrieve are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

from trainer.config import Config
from trainer.data.splits import Retrieved, choose_calibration_items, leave_out_items
from trainer.ood.calibration import count_needed
from trainer.training_data.run_data import RunData, can_learn_from, count_pairs, sample_queries

TARGET_PAIRS = 10  # times 1 / alpha: calibration pairs to reach by setting items aside


def is_judged_all_over(data: RunData, alpha: float) -> bool:
    """Tell whether held-out queries retrieve too few items outside the training data to calibrate on."""
    unfamiliar, familiar = count_pairs(data.traffic), count_pairs(data.familiar)
    few = unfamiliar < TARGET_PAIRS / alpha and 10 * unfamiliar < unfamiliar + familiar
    return unfamiliar < count_needed(alpha) or few


def set_items_aside(
    data: RunData, used: set[str], retrieve: Callable[[Container[str]], tuple[Retrieved, Retrieved]], config: Config
) -> RunData:
    """Exclude some judged items from training, to calibrate on; return the data unchanged if that does not help."""
    used = used | {item_id for query in data.train for item_id in query.item_ids}
    missing = round(TARGET_PAIRS / config.ood.alpha) - count_pairs(data.traffic)
    excluded = choose_calibration_items(data.familiar, used, pairs=missing)
    traffic, familiar = retrieve(used - excluded)
    train, dev, new, ood_dev = (leave_out_items(q, excluded) for q in (data.train, data.dev, data.new, data.ood_dev))
    if count_pairs(traffic) < count_needed(config.ood.alpha) or not dev or not can_learn_from(train):
        return data
    pool = [dataclasses.replace(q, item_ids=tuple(i for i in q.item_ids if i not in excluded)) for q in data.pool]
    sample = sample_queries(train, config.data.sample_pairs, config.seed)
    pool = [query for query in pool if query.item_ids]
    return dataclasses.replace(
        data, train=train, dev=dev, traffic=traffic, familiar=familiar, new=new, ood_dev=ood_dev, pool=pool,
        sample=sample, set_aside=frozenset(excluded),
    )  # fmt: skip
