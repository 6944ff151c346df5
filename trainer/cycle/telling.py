"""Telling a webhook how a cycle ended: at least once, and once where nothing is killed.

The outcome is on disk before anybody is told of it, and that it was told is noted behind it. What a kill or a deaf
webhook has kept from being told is told when a cycle is started next.
"""

from __future__ import annotations

import uuid
from typing import Any

from trainer.cycle.folder import REFUSED, RELEASED, Cycle, Cycles
from trainer.cycle.ports import World

TOLD_OUTCOMES = RELEASED, REFUSED  # others change nothing


def tell_outcome(cycle: Cycle, world: World) -> None:
    """Tell how a cycle ended, unless that was told or changed nothing.

    :param cycle: the cycle; it has ended.
    """
    ended = cycle.outcome or {}
    if ended.get("outcome") not in TOLD_OUTCOMES or cycle.told:
        return
    if world.tell(ended["outcome"], _describe(cycle) | {"time": ended["time"]}, ended["delivery"]):
        cycle.note_told()  # killed before this line, it is told again, under the same delivery


def tell_last(cycles: Cycles, world: World) -> None:
    """Tell how the newest of the cycles that released or were refused has ended, unless that was told.

    That one alone: it says what serves now, and a webhook that is gone for good must not hold up every start for each
    cycle that there ever was.
    """
    for cycle in reversed(cycles.all()):
        if (cycle.outcome or {}).get("outcome") in TOLD_OUTCOMES:
            tell_outcome(cycle, world)
            return


def tell_refusal(cycle: Cycle, world: World, step: str, why: Exception) -> None:
    """Tell that a step was refused. Nothing is noted: the step is not done, and whoever tries it again is told again.

    :param cycle: the cycle; it has not ended.
    """
    world.tell(REFUSED, _describe(cycle) | {"step": step, "reason": str(why)}, str(uuid.uuid4()))


def _describe(cycle: Cycle) -> dict[str, Any]:
    """Say what a webhook is told of a cycle, all of it from its folder: another process may be the one that tells.

    :param cycle: the cycle; it has begun.
    """
    began = (cycle.begun or {})["from"]
    gate = cycle.done("gate") or {}
    return {
        "model": began["name"], "cycle": cycle.name, "from": began["version"],
        "to": (cycle.done("train") or {}).get("version"),
        "gate": {key: value for key, value in gate.items() if key != "settings"} or None,
    }  # fmt: skip
