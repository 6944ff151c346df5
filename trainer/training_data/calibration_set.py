"""Items set aside for the OOD calibration, where what held-out queries retrieve is judged nearly everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

from trainer.config import Config
from trainer.data.splits import Retrieved, choose_calibration_items, leave_out_items
from trainer.ood.calibration import count_needed
from trainer.training_data.run_data import RunData, can_learn_from, count_pairs, sample_queries

MADE_PAIRS = 10  # times 1 / alpha: calibration pairs that are made where the catalogue is judged all over


def is_judged_all_over(data: RunData, alpha: float) -> bool:
    """Tell whether what held-out queries retrieve is nearly all judged, and too little is left to calibrate on."""
    unseen, seen = count_pairs(data.traffic), count_pairs(data.familiar)
    return unseen < count_needed(alpha) or (unseen < MADE_PAIRS / alpha and 10 * unseen < unseen + seen)


def set_items_aside(
    data: RunData, used: set[str], retrieve: Callable[[Container[str]], tuple[Retrieved, Retrieved]], config: Config
) -> RunData:
    """Leave some judged items out of everything, to calibrate on; where that does not help, all is as it was."""
    used = used | {item_id for query in data.train for item_id in query.item_ids}
    missing = round(MADE_PAIRS / config.ood.alpha) - count_pairs(data.traffic)
    apart = choose_calibration_items(data.familiar, used, pairs=missing)
    traffic, familiar = retrieve(used - apart)
    train, dev, new, ood_dev = (leave_out_items(q, apart) for q in (data.train, data.dev, data.new, data.ood_dev))
    if count_pairs(traffic) < count_needed(config.ood.alpha) or not dev or not can_learn_from(train):
        return data
    pool = [dataclasses.replace(q, item_ids=tuple(i for i in q.item_ids if i not in apart)) for q in data.pool]
    sample = sample_queries(train, config.data.sample_pairs, config.seed)
    pool = [query for query in pool if query.item_ids]
    return RunData(data.items, train, dev, traffic, familiar, new, ood_dev, pool, sample, apart)
