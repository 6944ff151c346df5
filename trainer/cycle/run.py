"""``darl cycle``: the steps in order, each done once, whatever happens in between."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import DarlError, GateRefused, UsageError
from trainer.cycle.config import STAGES_KEY, CycleConfig, check_files
from trainer.cycle.folder import BEGUN, Cycle, Cycles, now, write_json
from trainer.cycle.ports import World
from trainer.cycle.preflight import check_test
from trainer.cycle.steps import STEPS, Context, Step, Waiting
from trainer.cycle.telling import REFUSED, RELEASED, tell_last, tell_outcome, tell_refusal
from trainer.registry import nearest
from trainer.stages.registry import check_stages

NOTHING, WAITING, STOPPED, IDLE = "nothing", "waiting", "stopped", "idle"


@dataclass(frozen=True)
class CycleResult:
    """Where a cycle has got to.

    :param cycle: its name; empty: none has begun.
    :param outcome: ``released``; ``refused`` by the gate; ``nothing`` to learn from; ``waiting`` for judgments;
        ``stopped`` behind the step asked for; ``idle``: the log gives no reason to begin.
    :param said: why, or what comes next, in one clause.
    :param steps: what each step left, by name.
    """

    cycle: str
    outcome: str
    said: str
    steps: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Render for machines."""
        steps = {name: dict(result) for name, result in self.steps.items()}
        return {"cycle": self.cycle, "outcome": self.outcome, "said": self.said, "steps": steps}


def run_cycle(config: CycleConfig, base: Path, world: World, *, until: str = "") -> CycleResult:
    """Begin a cycle, or go on with the one that has not ended.

    :param base: folder that its paths are relative to.
    :param until: name of the last step to do; empty: all of them.
    :return: where it has got to.
    :raises DarlError: naming what stands in the way; the same call goes on from there.
    """
    last = _place(until) if until else len(STEPS) - 1
    cycles = Cycles(base / config.folder)
    with cycles.locked():
        tell_last(cycles, world)
        check_stages(config.train.stages, STAGES_KEY)
        check_files(config, base)
        cycle = cycles.open_or_next()
        serving = cycles.serving(base / config.model.bundle)
        context = Context(config, base, cycles, cycle, serving, world)
        if cycle.begun is None:
            start = world.start(serving)
            if not start.begin:
                return CycleResult("", IDLE, "; ".join(start.reasons), {})
            check_test(context)
            card = serving.card
            write_json(cycle.path / BEGUN, {
                "cycle": cycle.number, "time": now(), "because": list(start.reasons),
                "from": {"name": card.name, "version": card.version, "sha256": serving.identity},
                "config": config.to_json(),
            })  # fmt: skip
        elif cycle.begun["from"]["sha256"] != serving.identity and cycle.done("release") is None:
            _check_serving(context)
        return _steps(context, last)


def _check_serving(context: Context) -> None:
    """Refuse to go on where another bundle serves by now than when the cycle began."""
    began = (context.cycle.begun or {})["from"]
    told = context.told("export").get("sha256")
    if told is not None and told == context.serving.identity:
        return  # killed between the switch and its note: release does nothing twice
    raise DarlError(
        f"cycle {context.cycle.name} began with version {began['version']}, and another serves now",
        where=str(context.cycle.path), todo="end it with darl cycle --abandon, then run darl cycle again",
    )  # fmt: skip


def _steps(context: Context, last: int) -> CycleResult:
    cycle = context.cycle
    done: dict[str, Mapping[str, Any]] = {}
    for place, step in enumerate(STEPS[: last + 1]):
        result = cycle.done(step.name)
        if result is None:
            context.world.report(step.help, place, len(STEPS))
            try:
                result = _do(step, context)
            except Waiting as waiting:
                return CycleResult(cycle.name, WAITING, str(waiting), done)
        else:
            _check_settings(step, result, context)
        done[step.name] = result
        if (ended := _ended(step, result, context)) is not None:
            return CycleResult(cycle.name, ended["outcome"], ended["said"], done)
    if last < len(STEPS) - 1:
        return CycleResult(cycle.name, STOPPED, f"next is {STEPS[last + 1].name}", done)
    version = done["export"]["version"]
    ended = cycle.end(RELEASED, said=f"version {version} serves", version=version)
    tell_outcome(cycle, context.world)
    return CycleResult(cycle.name, RELEASED, ended["said"], done)


def _do(step: Step, context: Context) -> dict[str, Any]:
    started = time.monotonic()
    try:
        result = dict(step.run(context))
    except GateRefused as err:  # no judge is good enough, or the new version does not answer where it should serve
        tell_refusal(context.cycle, context.world, step.name, err)
        raise
    seconds = round(time.monotonic() - started, 1)
    result |= {"settings": step.settings(context.config), "time": now(), "seconds": seconds}
    context.cycle.finish(step.name, result)
    return result


def _check_settings(step: Step, result: Mapping[str, Any], context: Context) -> None:
    """Refuse to go on with other settings than a step was done with."""
    before, after = result["settings"], step.settings(context.config)
    changed = [name for name in before if before[name] != _plain(after.get(name))]
    if changed and context.cycle.done("release") is None:
        raise UsageError(
            f"{_difference(changed[0], before, after)} since cycle {context.cycle.name} did its step {step.name}",
            where=str(context.cycle.path),
            todo="put it back, or end the cycle with darl cycle --abandon and begin another",
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


def _ended(step: Step, result: Mapping[str, Any], context: Context) -> dict[str, Any] | None:
    """End the cycle early where a step leaves nothing for the next."""
    if step.name == "select" and not result["selected"]:
        return context.cycle.end(NOTHING, said=f"nothing is selected: {result['why_empty']}")
    if step.name == "judge" and not result["selected"]:
        return context.cycle.end(NOTHING, said="no selected pair was judged")
    if step.name == "gate" and not result["passed"]:
        ended = context.cycle.end(REFUSED, said="the gate said no: " + "; ".join(result["reasons"]))
        tell_outcome(context.cycle, context.world)
        return ended
    return None


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
        cycle.end("abandoned", said="ended by hand")
        return cycle.name


@dataclass(frozen=True)
class CyclePlan:
    """What a cycle would do.

    :param cycle: its name, or the name that the next one will have.
    :param begins: whether a new one would begin.
    :param reasons: why it would begin, or would not.
    :param todo: steps that are not.
    """

    cycle: str
    begins: bool
    reasons: tuple[str, ...]
    done: tuple[str, ...]
    todo: tuple[str, ...]


def planned(config: CycleConfig, base: Path, world: World) -> CyclePlan:
    """Say what :func:`run_cycle` would do; nothing is written.

    :param base: folder that its paths are relative to.
    """
    check_stages(config.train.stages, STAGES_KEY)
    check_files(config, base)
    cycles = Cycles(base / config.folder)
    cycle: Cycle = cycles.open_or_next()
    serving = cycles.serving(base / config.model.bundle)
    done = tuple(step.name for step in STEPS if cycle.done(step.name) is not None)
    todo = tuple(step.name for step in STEPS if step.name not in done)
    if cycle.begun is not None:
        return CyclePlan(cycle.name, False, tuple(cycle.begun["because"]), done, todo)
    start = world.start(serving)
    if start.begin:
        check_test(Context(config, base, cycles, cycle, serving, world))
    return CyclePlan(cycle.name, start.begin, start.reasons, done, todo if start.begin else ())


def _place(name: str) -> int:
    names = [step.name for step in STEPS]
    if name not in names:
        raise UsageError(f"there is no step {name!r}", where="--until", todo=nearest(name, names))
    return names.index(name)
