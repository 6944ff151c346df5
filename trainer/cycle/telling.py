"""Notifies a webhook of a cycle's outcome, at least once, and exactly once if no process is killed.

The outcome is on disk before the notification, which is recorded afterwards. The next start repeats a notification
that a kill or an unreachable webhook has prevented.
"""

from __future__ import annotations

import uuid
from typing import Any

from trainer.cycle.folder import REFUSED, RELEASED, Cycle, Cycles
from trainer.cycle.ports import World

NOTIFIED_OUTCOMES = RELEASED, REFUSED  # other outcomes change nothing


def tell_outcome(cycle: Cycle, world: World) -> None:
    """Notify of a finished cycle's outcome, unless it changed nothing or the webhook has been notified."""
    record = cycle.outcome or {}
    if record.get("outcome") not in NOTIFIED_OUTCOMES or cycle.notified:
        return
    if world.tell(record["outcome"], _describe(cycle) | {"time": record["time"]}, record["delivery"]):
        cycle.mark_notified()  # if killed before this line, the same delivery is repeated


def tell_last(cycles: Cycles, world: World) -> None:
    """Notify of the newest release or refusal, if that is still to do.

    Older ones are skipped: the newest tells which version serves, and a dead webhook must not delay every start once
    per past cycle.
    """
    for cycle in reversed(cycles.all()):
        if (cycle.outcome or {}).get("outcome") in NOTIFIED_OUTCOMES:
            tell_outcome(cycle, world)
            return


def tell_refusal(cycle: Cycle, world: World, step: str, why: Exception) -> None:
    """Notify of a refused step. That is not recorded: the step is not done, and another attempt notifies again."""
    world.tell(REFUSED, _describe(cycle) | {"step": step, "reason": str(why)}, str(uuid.uuid4()))


def _describe(cycle: Cycle) -> dict[str, Any]:
    """Describe a cycle for a webhook, from its folder alone, because another process may notify."""
    began = (cycle.begun or {})["from"]
    gate = cycle.read_result("gate") or {}
    return {
        "model": began["name"], "cycle": cycle.name, "from": began["version"],
        "to": (cycle.read_result("train") or {}).get("version"),
        "gate": {key: value for key, value in gate.items() if key != "settings"} or None,
    }  # fmt: skip
