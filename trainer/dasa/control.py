"""The control arm: a sample of production traffic, independent of the detector, kept for the gate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.values import parse_text
from darl_opensearch.text import same_text
from trainer.dasa.labelled import draw_bits


def draw_by_traffic(keys: Sequence[str], traffic: NDArray[np.float64], count: int, seed: int) -> list[int]:
    """Sample queries without replacement, weighted by traffic (Efraimidis and Spirakis 2006).

    Each query's draw depends on its text and the seed alone, so other queries' traffic changes the sample as little
    as possible.

    :param traffic: requests per query, above 0.
    :return: at most ``count`` rows, in the order drawn.
    """
    uniform = np.array([(draw_bits(key, seed, "control") + 0.5) / 2**64 for key in keys])
    wait = -np.log(uniform) / traffic if len(keys) else np.empty(0)  # -log(u^(1/w)): the smallest are drawn
    return [int(row) for row in np.argsort(wait, kind="stable")[:count]]


def read_control(paths: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the task files of an earlier control arm.

    :return: tasks by normalised query, see :func:`darl_opensearch.text.same_text`.
    :raises InputError: for a line that is not a task.
    """
    tasks: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        for where, row in read_jsonl(path):
            for name in ("query", "item_id", "text"):
                parse_text(row, name, where, todo="pass the control.jsonl of the previous cycle")
            tasks.setdefault(same_text(row["query"]), []).append(row)
    return tasks


def keep_share(keys: Iterable[str], share: float, seed: int) -> list[str]:
    """Sample the queries that stay in the arm for another cycle; their number is rounded up."""
    arm = sorted(keys)
    # The arm seeds the draw as well: with the seed alone, the same queries would stay in every cycle.
    purpose = "rotation\0" + "\0".join(arm)
    ordered = sorted(arm, key=lambda key: (draw_bits(key, seed, purpose), key))
    return sorted(ordered[: math.ceil(share * len(ordered))])
