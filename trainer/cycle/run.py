"""``darl cycle``: the steps in order, each done once, whatever happens in between."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import DarlError, GateRefused, UsageError
from darl_opensearch.settings import nearest
from trainer.cycle.config import STAGES_KEY, CycleConfig, check_files
from trainer.cycle.folder import ABANDONED, BEGUN, RELEASED, Cycles, time_now, write_record
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.ports import World
from trainer.cycle.preflight import check_test
from trainer.cycle.steps import STEPS, Ending, Step, Waiting
from trainer.cycle.telling import tell_last, tell_outcome, tell_refusal
from trainer.stages.registry import check_stages

WAITING, STOPPED, IDLE = "waiting", "stopped", "idle"  # a cycle that has not ended, or not begun


@dataclass(frozen=True)
class CycleResult:
    """Where a cycle has got to.

    :param cycle: its name; empty: none has begun.
    :param outcome: ``released``; ``refused`` by the gate; ``nothing`` to learn from; ``waiting`` for judgments;
        ``stopped`` behind the step asked for; ``idle``: the log gives no reason to begin.
    :param reason: why, or what comes next, in one clause.
    :param steps: what each step left, by name.
    """

    cycle: str
    outcome: str
    reason: str
    steps: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Render for machines."""
        steps = {name: dict(left) for name, left in self.steps.items()}
        return {"cycle": self.cycle, "outcome": self.outcome, "said": self.reason, "steps": steps}


def run_cycle(config: CycleConfig, base: Path, world: World, *, until: str = "") -> CycleResult:
    """Begin a cycle, or go on with the one that has not ended.

    :param base: folder that its paths are relative to.
    :param until: name of the last step to do; empty: all of them.
    :raises DarlError: naming what stands in the way; the same call goes on from there.
    """
    last = _find_step(until) if until else len(STEPS) - 1
    cycles = Cycles(base / config.folder)
    with cycles.locked():
        tell_last(cycles, world)
        check_stages(config.train.stages, STAGES_KEY)
        check_files(config, base)
        cycle = cycles.open_or_next()
        serving = cycles.serving(base / config.model.bundle)
        inputs = CycleInputs(config, base, cycles, cycle, serving, world)
        if cycle.begun is None:
            start = world.start(serving)
            if not start.begin:
                return CycleResult("", IDLE, "; ".join(start.reasons), {})
            check_test(inputs)
            card = serving.card
            write_record(cycle.path / BEGUN, {
                "cycle": cycle.number, "time": time_now(), "because": list(start.reasons),
                "from": {"name": card.name, "version": card.version, "sha256": serving.identity},
                "config": config.to_json(),
            })  # fmt: skip
        elif cycle.begun["from"]["sha256"] != serving.identity and cycle.done("release") is None:
            _check_serving(inputs)
        return _run_steps(inputs, last)


def _check_serving(inputs: CycleInputs) -> None:
    """Refuse to go on where another bundle serves by now than when the cycle began."""
    if inputs.left("export").get("sha256") == inputs.serving.identity:
        return  # killed between the switch and its note: release does nothing twice
    began = (inputs.cycle.begun or {})["from"]
    raise DarlError(
        f"cycle {inputs.cycle.name} started from version {began['version']}, but another version serves now",
        where=str(inputs.cycle.path), todo="end it with darl cycle --abandon, then run darl cycle again",
    )  # fmt: skip


def _run_steps(inputs: CycleInputs, last: int) -> CycleResult:
    """Do the steps that are not done, up to one of them, or to one behind which the cycle waits or ends."""
    cycle = inputs.cycle
    steps: dict[str, Mapping[str, Any]] = {}
    for place, step in enumerate(STEPS[: last + 1]):
        left = cycle.done(step.name)
        if left is None:
            inputs.world.report(step.help, place, len(STEPS))
            result = _run_step(step, inputs)
            if isinstance(result, Waiting):
                return CycleResult(cycle.name, WAITING, result.reason, steps)
            left = result
        else:
            _check_settings(step, left, inputs)
        steps[step.name] = left
        if (ending := step.ending(left)) is not None:
            return _end(inputs, ending, steps)
    if last < len(STEPS) - 1:
        return CycleResult(cycle.name, STOPPED, f"next is {STEPS[last + 1].name}", steps)
    version = steps["export"]["version"]
    return _end(inputs, Ending(RELEASED, f"version {version} serves"), steps, version=version)


def _end(inputs: CycleInputs, ending: Ending, steps: Mapping[str, Mapping[str, Any]], **more: Any) -> CycleResult:
    inputs.cycle.end(ending.outcome, said=ending.reason, **more)
    tell_outcome(inputs.cycle, inputs.world)
    return CycleResult(inputs.cycle.name, ending.outcome, ending.reason, steps)


def _run_step(step: Step, inputs: CycleInputs) -> dict[str, Any] | Waiting:
    started = time.monotonic()
    try:
        result = step.run(inputs)
    except GateRefused as err:  # no judge is good enough, or the new version does not answer where it should serve
        tell_refusal(inputs.cycle, inputs.world, step.name, err)
        raise
    if isinstance(result, Waiting):
        return result
    seconds = round(time.monotonic() - started, 1)
    left = {**result, "settings": step.settings(inputs.config), "time": time_now(), "seconds": seconds}
    inputs.cycle.finish(step.name, left)
    return left


def _check_settings(step: Step, left: Mapping[str, Any], inputs: CycleInputs) -> None:
    """Refuse to go on with other settings than a step was done with."""
    before, after = left["settings"], step.settings(inputs.config)
    changed = [name for name in before if before[name] != _plain(after.get(name))]
    if changed and inputs.cycle.done("release") is None:
        raise UsageError(
            f"{_difference(changed[0], before, after)} since cycle {inputs.cycle.name} ran step {step.name}",
            where=str(inputs.cycle.path),
            todo="restore it, or end the cycle with darl cycle --abandon and start another",
        )


def _difference(table: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Name the key that is another now, and what it was: the change may come from a --set that was left out."""
    was, now_is = before[table], _plain(after.get(table))
    if not isinstance(was, dict) or not isinstance(now_is, dict):
        return f"{table} has changed from {was!r} to {now_is!r}"
    key = next(key for key in {**was, **now_is} if was.get(key) != now_is.get(key))
    return f"[{table}] {key} has changed from {json.dumps(was.get(key))} to {json.dumps(now_is.get(key))}"


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists there, and paths are texts."""
    return json.loads(json.dumps(value, default=str))


def abandon(config: CycleConfig, base: Path) -> str:
    """End the cycle that has not ended; what it had judged stays and is trained on by the next.

    :param base: folder that its paths are relative to.
    :return: its name; empty: there was none.
    """
    cycles = Cycles(base / config.folder)
    with cycles.locked():
        cycle = cycles.open_or_next()
        if not (cycle.path / BEGUN).is_file():  # whatever it holds: this is the way out where it is broken
            return ""
        cycle.end(ABANDONED, said="abandoned")
        return cycle.name


@dataclass(frozen=True)
class CyclePlan:
    """What a cycle would do.

    :param cycle: its name, or the name that the next one will have.
    :param reasons: why it would begin, or would not.
    :param todo: steps that are not.
    """

    cycle: str
    begins: bool
    reasons: tuple[str, ...]
    done: tuple[str, ...]
    todo: tuple[str, ...]


def plan_cycle(config: CycleConfig, base: Path, world: World) -> CyclePlan:
    """Say what :func:`run_cycle` would do; nothing is written.

    :param base: folder that its paths are relative to.
    """
    check_stages(config.train.stages, STAGES_KEY)
    check_files(config, base)
    cycles = Cycles(base / config.folder)
    cycle = cycles.open_or_next()
    serving = cycles.serving(base / config.model.bundle)
    done = tuple(step.name for step in STEPS if cycle.done(step.name) is not None)
    todo = tuple(step.name for step in STEPS if step.name not in done)
    if cycle.begun is not None:
        return CyclePlan(cycle.name, False, tuple(cycle.begun["because"]), done, todo)
    start = world.start(serving)
    if start.begin:
        check_test(CycleInputs(config, base, cycles, cycle, serving, world))
    return CyclePlan(cycle.name, start.begin, start.reasons, done, todo if start.begin else ())


def _find_step(name: str) -> int:
    names = [step.name for step in STEPS]
    if name not in names:
        raise UsageError(f"unknown step {name!r}", where="--until", todo=nearest(name, names))
    return names.index(name)
