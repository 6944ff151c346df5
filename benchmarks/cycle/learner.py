"""A head that learns from the training queries and from what was judged."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cycle.shifts import World
from benchmarks.quality.data import Rows
from benchmarks.quality.methods import OURS, PRIOR, fitted
from benchmarks.quality.training import Fitted
from trainer.stages.calibrated import calibrate_grades
from trainer.training_data.pairs import Pairs

NEW_DEV = 5  # every fifth judged query chooses the step to stop at and calibrates; the others are fitted

Ints = NDArray[np.int64]


def learn(world: World, train: Rows, dev: Rows, judged: list[Ints]) -> Fitted:
    """Fit and calibrate a head on old and new labels together.

    :param world: the shift.
    :param train: ID queries that fit.
    :param dev: ID queries that stop and calibrate.
    :param judged: rows of the pairs of each judged query, in the order in which they were chosen.
    :return: the head.
    """
    new_dev = judged[NEW_DEV - 1 :: NEW_DEV]
    new = [rows for place, rows in enumerate(judged) if place % NEW_DEV != NEW_DEV - 1]
    sides = [_side(world, queries, rows) for queries, rows in ((train, new), (dev, new_dev))]
    head = fitted(OURS, *((pairs, world.judged.head_input[rows]) for pairs, rows in sides))
    pairs, rows = sides[1]
    calibrate_grades(head, pairs, world.judged.head_input[rows], prior=PRIOR)
    return Fitted(head, world.judged.head_input)


def _side(world: World, queries: Rows, judged: list[Ints]) -> tuple[Pairs, Tensor]:
    rows = torch.cat([world.judged.rows(queries), *(torch.from_numpy(r) for r in judged)])
    return world.judged.pairs.select(rows), rows
