"""``darl cycle``: runs the steps in order, each once, across restarts."""

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
from trainer.cycle.folder import ABANDONED, BEGUN, RELEASED, Cycles, format_now, write_record
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.planning import ControlNeeds, plan_control
from trainer.cycle.ports import World
from trainer.cycle.preflight import check_ahead
from trainer.cycle.steps import STEPS, Ending, Step, Waiting
from trainer.cycle.telling import tell_last, tell_outcome, tell_refusal
from trainer.stages.registry import check_stages

WAITING, STOPPED, IDLE = "waiting", "stopped", "idle"  # a cycle that is unfinished, or has not begun


@dataclass(frozen=True)
class CycleResult:
    """State of a cycle after a run.

    :param cycle: its name; empty: none has begun.
    :param outcome: ``released``; ``refused`` by the gate; ``nothing`` to learn from; ``waiting`` for judgments;
        ``stopped`` after the step asked for; ``idle``: no reason to start.
    :param reason: why, or what comes next, in one clause.
    :param steps: results of the steps, by name.
    """

    cycle: str
    outcome: str
    reason: str
    steps: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        steps = {name: dict(result) for name, result in self.steps.items()}
        return {"cycle": self.cycle, "outcome": self.outcome, "said": self.reason, "steps": steps}


def run_cycle(config: CycleConfig, base: Path, world: World, *, until: str = "") -> CycleResult:
    """Start a cycle, or resume the unfinished one.

    :param base: folder that its paths are relative to.
    :param until: name of the last step to run; empty: all of them.
    :raises DarlError: if a step fails; the same call resumes there.
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
            check_ahead(inputs)
            card = serving.card
            write_record(cycle.path / BEGUN, {
                "cycle": cycle.number, "time": format_now(), "because": list(start.reasons),
                "from": {"name": card.name, "version": card.version, "sha256": serving.identity},
                "config": config.to_json(),
            })  # fmt: skip
        elif cycle.begun["from"]["sha256"] != serving.identity and cycle.read_result("release") is None:
            _check_serving(inputs)
        return _run_steps(inputs, last)


def _check_serving(inputs: CycleInputs) -> None:
    """Refuse to resume a cycle if the serving bundle has changed since its start."""
    if inputs.result("export").get("sha256") == inputs.serving.identity:
        return  # killed between the switch and its record: repeating the release changes nothing
    began = (inputs.cycle.begun or {})["from"]
    raise DarlError(
        f"cycle {inputs.cycle.name} started from version {began['version']}, but another version serves now",
        where=str(inputs.cycle.path), todo="end it with darl cycle --abandon, then run darl cycle again",
    )  # fmt: skip


def _run_steps(inputs: CycleInputs, last: int) -> CycleResult:
    """Run the steps that are not done, until the last one asked for, or one that waits for people or ends the cycle."""
    cycle = inputs.cycle
    steps: dict[str, Mapping[str, Any]] = {}
    for place, step in enumerate(STEPS[: last + 1]):
        result = cycle.read_result(step.name)
        if result is None:
            inputs.world.report(step.help, place, len(STEPS))
            done = _run_step(step, inputs)
            if isinstance(done, Waiting):
                return CycleResult(cycle.name, WAITING, done.reason, steps)
            result = done
        else:
            _check_settings(step, result, inputs)
        steps[step.name] = result
        if (ending := step.ending(result)) is not None:
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
    except GateRefused as err:  # no judge is good enough, or the new version does not answer in the cluster
        tell_refusal(inputs.cycle, inputs.world, step.name, err)
        raise
    if isinstance(result, Waiting):
        return result
    seconds = round(time.monotonic() - started, 1)
    record = {**result, "settings": step.settings(inputs.config), "time": format_now(), "seconds": seconds}
    inputs.cycle.finish(step.name, record)
    return record


def _check_settings(step: Step, result: Mapping[str, Any], inputs: CycleInputs) -> None:
    """Refuse to resume if the settings of a finished step have changed."""
    before, after = result["settings"], step.settings(inputs.config)
    changed = [name for name in before if before[name] != _as_json(after.get(name))]
    if changed and inputs.cycle.read_result("release") is None:
        raise UsageError(
            f"{_difference(changed[0], before, after)} since cycle {inputs.cycle.name} ran step {step.name}",
            where=str(inputs.cycle.path),
            todo="restore it, or end the cycle with darl cycle --abandon and start another",
        )


def _difference(table: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Describe the first changed key with both values: the cause may be a missing --set."""
    old, new = before[table], _as_json(after.get(table))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"{table} has changed from {old!r} to {new!r}"
    key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
    return f"[{table}] {key} has changed from {json.dumps(old.get(key))} to {json.dumps(new.get(key))}"


def _as_json(value: Any) -> Any:
    """Return a value as JSON would restore it: tuples as lists, paths as texts."""
    return json.loads(json.dumps(value, default=str))


def abandon(config: CycleConfig, base: Path) -> str:
    """End the unfinished cycle; the next one trains on its judgments.

    :param base: folder that its paths are relative to.
    :return: its name; empty: there was none.
    """
    cycles = Cycles(base / config.folder)
    with cycles.locked():
        cycle = cycles.open_or_next()
        if not (cycle.path / BEGUN).is_file():  # not read: abandoning must work for a broken file too
            return ""
        cycle.end(ABANDONED, said="abandoned")
        return cycle.name


@dataclass(frozen=True)
class CyclePlan:
    """What a cycle would do.

    :param cycle: name of the unfinished cycle, or of the next one.
    :param reasons: why it would start, or not.
    :param todo: names of the remaining steps.
    :param control: control queries that the gate needs; None if no cycle would start.
    """

    cycle: str
    begins: bool
    reasons: tuple[str, ...]
    done: tuple[str, ...]
    todo: tuple[str, ...]
    control: ControlNeeds | None = None

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return vars(self) | {"control": self.control.to_json() if self.control else None}


def plan_cycle(config: CycleConfig, base: Path, world: World) -> CyclePlan:
    """Plan what :func:`run_cycle` would do, without writing anything.

    :param base: folder that its paths are relative to.
    """
    check_stages(config.train.stages, STAGES_KEY)
    check_files(config, base)
    cycles = Cycles(base / config.folder)
    cycle = cycles.open_or_next()
    serving = cycles.serving(base / config.model.bundle)
    done = tuple(step.name for step in STEPS if cycle.read_result(step.name) is not None)
    todo = tuple(step.name for step in STEPS if step.name not in done)
    inputs = CycleInputs(config, base, cycles, cycle, serving, world)
    if cycle.begun is not None:
        control = plan_control(inputs) if "gate" in todo else None
        return CyclePlan(cycle.name, False, tuple(cycle.begun["because"]), done, todo, control)
    start = world.start(serving)
    if not start.begin:
        return CyclePlan(cycle.name, False, start.reasons, done, ())
    check_ahead(inputs)
    return CyclePlan(cycle.name, True, start.reasons, done, todo, plan_control(inputs))


def _find_step(name: str) -> int:
    names = [step.name for step in STEPS]
    if name not in names:
        raise UsageError(f"unknown step {name!r}", where="--until", todo=nearest(name, names))
    return names.index(name)
