"""``darl cycle``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON, LOGIN
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import EXIT_REFUSED, load
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options


@click.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path), default="cycle.toml")
@with_options
@click.pass_context
def cli(
    ctx: click.Context,
    config: Path,
    until: str = setting(
        "",
        "Stop after this step: select, judge, train, export, evaluate, gate, register or release.",
        env="DARL_CYCLE_UNTIL",
        metavar="STEP",
    ),
    overrides: tuple[str, ...] = setting(
        (), "Set a key of the configuration.", env="DARL_CYCLE_SET", flag="--set", metavar="TABLE.KEY=VALUE"
    ),
    now: bool = setting(False, 'Start a cycle even without drift, as [start] when = "always" does.'),
    abandon: bool = setting(False, "Abandon the unfinished cycle; its judgments are kept."),
    dry_run: bool = setting(False, "Print what would be done, and write nothing."),
    apply_settings: bool = setting(False, "Change cluster settings as a release requires."),
    cluster: ClusterOptions = LOGIN,
    as_json: bool = JSON,
) -> None:
    """Adapt to OOD traffic: select, judge, train, export, evaluate, gate, register and release.

    CONFIG (cycle.toml) configures the steps. If the cycle was killed or waits for people, the same command resumes
    it, and no step runs twice. Exit code 3: the gate refused the new version, and the old one keeps serving.
    """
    steps = load("trainer.cycle.run", "train")
    from darl_opensearch.cli.cycle_world import Surroundings
    from trainer.cycle.config import STAGES_KEY, read_cycle
    from trainer.stages.registry import check_stages

    resolved = read_cycle(config, [*overrides, *(['start.when="always"'] if now else [])])
    check_stages(resolved.train.stages, STAGES_KEY, str(config))
    if abandon:
        name = steps.abandon(resolved, config.parent)
        text = f"Cycle {name} was abandoned." if name else "There is no unfinished cycle."
        emit({"cycle": name, "outcome": "abandoned" if name else "idle"}, as_json=as_json, text=text)
        return
    with progress_line("reading", total=1) as line:
        world = Surroundings(resolved, config.parent, cluster, apply_settings, note, line.report).world()
        if dry_run:
            plan = steps.plan_cycle(resolved, config.parent, world)
        else:
            result = steps.run_cycle(resolved, config.parent, world, until=until)
    if dry_run:
        emit(plan.to_json(), as_json=as_json, text=describe_plan(plan))
        return
    if result.cycle:
        written = load("trainer.report", "train").write_report(config.parent / resolved.folder / result.cycle)
        note(f"the report is in {written.path}")
    emit(result.to_json(), as_json=as_json, text=summarize_cycle(result))
    if result.outcome == "refused":
        ctx.exit(EXIT_REFUSED)


def describe_plan(plan: Any) -> str:
    """Describe what a cycle would do, and how many control queries its gate needs."""
    if not plan.todo:
        return f"No cycle would start: {'; '.join(plan.reasons)}."
    verb = "would start" if plan.begins else "would resume"
    done = f" Done: {', '.join(plan.done)}." if plan.done else ""
    text = f"Cycle {plan.cycle} {verb} ({'; '.join(plan.reasons)}).{done} To do: {', '.join(plan.todo)}."
    return f"{text}\n{_control(plan.control)}" if plan.control else text


def _control(needs: Any) -> str:
    """Say how many control queries the gate needs."""
    arm = f"The control arm has up to {needs.available:,} queries"
    if not needs.source:
        return f"{arm}. How many the gate needs is not known before the first control arm; [start] twin estimates it."
    gains = " or ".join(f"{count:,} for a gain of .01 in {name}" for name, count in needs.gain.items())
    loss = f", and {needs.no_loss:,} to exclude a loss of order" if needs.no_loss else ""
    text = f"{arm}; the gate needs about {gains}{loss} (power 80 %, by {needs.source})."
    if needs.looks == 1:
        return text
    shares = " and ".join(f"{100 * share:.0f} %" for share in needs.judged)
    return f"{text} With {needs.looks} looks about {shares} of them are judged, with such a gain and without one."


def summarize_cycle(result: Any) -> str:
    """Summarise a cycle, one line per step and one for its end."""
    lines = [_LINES[name](left) for name, left in result.steps.items() if name in _LINES]
    end = {
        "idle": "No cycle started", "waiting": f"Cycle {result.cycle} waits", "stopped": f"Cycle {result.cycle}",
    }.get(result.outcome, f"Cycle {result.cycle}: {result.outcome}")  # fmt: skip
    return "\n".join([*lines, f"{end}: {result.reason}."])


def _stages(left: Any) -> str:
    stages = ", ".join(f"{stage['stage']} {'kept' if stage['kept'] else 'rolled back'}" for stage in left["stages"])
    pairs = left["pairs"]
    lines = [f"train      version {left['version']} on {pairs['new']} new and {pairs['old']} earlier pairs: {stages}"]
    if left_out := left.get("left_out"):
        lines.append(
            f"           {', '.join(left_out)} left out: too few queries were judged to keep some to choose by"
        )
    if ood := left.get("ood"):
        alarms = ood["false_alarms_seen_items"]
        share = f"; false alarms on trained items {alarms['mean']:.3f} (alpha {ood['alpha']:g})" if alarms else ""
        of = f"{ood['calibration_pairs']:,} pairs of {ood['calibration_queries']:,} held-out queries"
        lines.append(f"           OOD score calibrated on {of}{share}")
    return "\n".join(lines)


def _judged(left: Any) -> str:
    earlier = f"; {left['known']} had been judged before" if left["known"] else ""
    unjudged = left["asked"] - left["selected"] - left["control"]
    return f"judge      {left['selected']} selected and {left['control']} control pairs judged, {unjudged} not{earlier}"


def _decided(left: Any) -> str:
    where = f", {left['decided']}" if left.get("decided") else ""
    return f"gate       {'yes' if left['passed'] else 'no'}{where}"


_LINES: dict[str, Callable[[Any], str]] = {
    "select": lambda left: f"select     {left['selected']} pairs, and {left['control']} for the control arm",
    "judge": _judged,
    "train": _stages,
    "gate": _decided,
}
