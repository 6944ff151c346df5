"""The parts of a report about a cycle: its end, the gate, both versions, what was selected and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from darl_opensearch.errors import one_line
from darl_opensearch.web.chart import Chart, Series
from darl_opensearch.web.markup import table
from trainer.cycle.folder import ABANDONED, NOTHING, REFUSED, RELEASED
from trainer.cycle.steps import STEPS
from trainer.dasa.map import CANDIDATE, CHOSEN, TRAINING
from trainer.dasa.report import DROPPED
from trainer.evaluate.gate_report import AGREEMENT
from trainer.evaluate.gate_words import TITLES, lay_out_gate
from trainer.evaluate.report.tables import format_cell, lay_out_tables, name_of
from trainer.report.parts import (
    Heading,
    Missing,
    Piece,
    bullets,
    by_name,
    callout,
    confusion_table,
    intervals,
    paragraph,
    reliability_chart,
    side_by_side,
)
from trainer.report.recorded import Record, RecordedCycle
from trainer.report.training import training_parts

ENDS = {
    RELEASED: ("good", "Released."), REFUSED: ("bad", "Refused."), NOTHING: ("warn", "Nothing to learn from."),
    ABANDONED: ("warn", "Abandoned."),
}  # fmt: skip
KINDS = {TRAINING: "trained on", CANDIDATE: "candidates not selected", CHOSEN: "selected"}
MAP_HEIGHT = 420
_LONGEST = 200  # characters of a query that are shown


def cycle_parts(cycle: RecordedCycle) -> list[Piece]:
    """Lay out a cycle, and its training."""
    return [
        *_status(cycle), *_gate(cycle), *_versions(cycle), *_selection(cycle), *_judging(cycle),
        *_training(cycle),
    ]  # fmt: skip


def _status(cycle: RecordedCycle) -> list[Piece]:
    """Say how it ended, or how far it is, and what each step has left."""
    outcome, begun = cycle.outcome, cycle.begun
    todo = [name for name, left in cycle.steps.items() if left is None]
    if outcome is not None:
        kind, lead = ENDS.get(outcome["outcome"], ("warn", f"{outcome['outcome']}."))  # people edit these files
        said = str(outcome.get("said", ""))
        end = callout(kind, lead, [said[:1].upper() + said[1:]])
    else:
        end = callout("warn", "Not finished.", [f"The next step is {todo[0]}." if todo else "All steps are done."])
    rows = [
        (step.name, step.help, _left(step.name, left) if left else "not done", _time(left),
         f"{left['seconds']:,.1f} s" if left and "seconds" in left else "–")
        for step, left in zip(STEPS, cycle.steps.values(), strict=True)
    ]  # fmt: skip
    return [
        end,
        paragraph(f"Began {_time(begun)} UTC from version {begun['from']['version']}, because:"),
        bullets(begun.get("because", ())),
        table("Steps", ("step", "what it does", "result", "done (UTC)", "took"), rows, names=4),
    ]


def _time(record: Record | None) -> str:
    return str(record["time"])[:19].replace("T", " ") if record and "time" in record else "–"


def _left(step: str, left: Record) -> str:
    """Summarise the result of a step."""
    if step == "select":
        return f"{left['selected']:,} pairs, and {left['control']:,} for the control arm"
    if step == "judge":
        return f"{left['selected']:,} selected and {left['control']:,} control pairs judged, of {left['asked']:,} asked"
    if step == "train":
        return f"version {left['version']} on {left['pairs']['new']:,} new and {left['pairs']['old']:,} earlier pairs"
    if step == "gate":
        return "passed" if left["passed"] else "refused"
    return "done"


def _gate(cycle: RecordedCycle) -> list[Piece]:
    gate = cycle.steps["gate"]
    if gate is None:
        return [Heading("Gate"), Missing(f"The gate has not decided: {_why_not(cycle, 'gate')}.")]
    passed = gate["passed"]
    verdict = callout(
        "good" if passed else "bad", "The gate passed it." if passed else "The gate refused it.",
        [*gate["reasons"], *([gate["decided"]] if passed and gate.get("decided") else [])],
    )  # fmt: skip
    charts: list[Piece] = [_changes(gate, measure) for measure in (gate["measure"], "rps") if _changed(gate, measure)]
    head, rows = lay_out_gate(gate)
    options, looks = gate["options"], gate.get("looks") or []
    of_look = f", on the control arm {100 * (1 - looks[-1]['level']):.4g} %, those of the look" if looks else ""
    explained = (
        f"Intervals are 95 %{of_look}, over queries ({options['draws']:,} resamples, seed {options['seed']}); p of "
        "gains by Holm. “can show”: the change that this many queries show with a power of 80 %; “needed”: queries "
        "that would show the change that was found, “–” if none would."
    )
    parts: list[Piece] = [Heading("Gate"), verdict, *side_by_side(charts), paragraph(explained)]
    parts.append(table("What had to hold", (*head[:-1], "holds"), rows, names=2))
    checks = gate["checks"]
    odd = [
        (check["check"], "failed" if check["passed"] is False else "not checked", check["detail"])
        for check in checks if check["passed"] is not True
    ]  # fmt: skip
    count = sum(check["passed"] is True for check in checks)
    parts.append(paragraph(f"{count:,} of {len(checks):,} checks of the bundle, its grades and its data passed."))
    if odd:
        parts.append(table("Checks that did not pass", ("check", "", "detail"), odd, names=3))
    return [*parts, *(_looks(gate["measure"], looks) if looks else [])]


def _changed(gate: Record, measure: str) -> dict[str, Record]:
    """Find the change of a measure by part."""
    return {
        TITLES[name]: change
        for name, part in gate["conditions"].items() for change in part["changes"] if change["measure"] == measure
    }  # fmt: skip


def _changes(gate: Record, measure: str) -> Chart:
    """Chart the change of a measure on each part against what it must exceed."""
    found = _changed(gate, measure)
    series = [intervals("change", [change["change"] for change in found.values()])]
    left = [change["gain"]["left"] if change["gain"] else None for change in found.values()]
    if any(left):
        series.append(intervals("change once both are calibrated alike", left))
    bound, says = 0.0, "no change"
    if measure == gate["measure"]:
        bound = next(iter(gate["conditions"].values()))["bound"] + AGREEMENT
        says = f"the interval must lie above {bound:g}"
    better = ", a fall counts as positive" if measure == "rps" else ""
    title = f"Change in {name_of(measure)}: new less old version{better}"
    return by_name(f"gate-{measure.replace('@', '-')}", title, list(found), series, x_name="part", level=(bound, says))


def _looks(measure: str, looks: Sequence[Record]) -> list[Piece]:
    rows = [
        (f"{look['look']} of {look['of']}", f"{look['queries']:,}",
         *(format_cell(look["measures"][name]["change"], signed=True) for name in looks[0]["measures"]),
         "–" if look["chance"] is None else f"{100 * look['chance']:.0f} %", look["decision"])
        for look in looks
    ]  # fmt: skip
    head = ("look", "control queries", *map(name_of, looks[0]["measures"]), "chance of a yes", "decision")
    found = [look["measures"][measure]["change"] for look in looks]
    names = [f"look {look['look']}: {look['queries']:,} queries" for look in looks]
    title = f"Control arm by look: change in {name_of(measure)}"
    chart = by_name("looks", title, names, [intervals("change", found)], x_name="look", level=(0.0, "no change"))
    return [chart, table("Looks at the control arm", head, rows)]


def _versions(cycle: RecordedCycle) -> list[Piece]:
    parts: list[Piece] = [Heading("In and out of distribution, by version")]
    evaluation = cycle.evaluation
    if evaluation is None:
        return [*parts, Missing(f"The versions have not been compared: {_why_not(cycle, 'evaluate')}.")]
    # The new version is evaluated, and the serving one what it is compared with.
    systems = [system["name"] for system in sorted(evaluation["systems"], key=lambda system: system["evaluated"])]
    names = [part["name"] for part in evaluation["parts"]]
    measure = f"ndcg@{evaluation['cutoffs'][-1]}"
    rows = {(row["system"], row["part"]): row for row in evaluation["figures"]}
    series = [
        intervals(TITLES[part], [rows[system, part]["figures"].get(measure) for system in systems]) for part in names
    ]
    title = f"{name_of(measure)} by version"
    charts: list[Piece] = [by_name("versions", title, systems, series, x_name="version", top=1.05)]
    gaps = {row["system"]: row["figures"].get(measure) for row in evaluation["gaps"]}
    if gaps:
        gap = [intervals("gap", [gaps.get(system) for system in systems])]
        title = f"Gap in {name_of(measure)} by version: ID test less control arm"
        charts.append(by_name("versions-gap", title, systems, gap, x_name="version", level=(0.0, "no gap")))
    parts += side_by_side(charts)
    parts.append(paragraph(f"Intervals are 95 %, over queries ({evaluation['draws']:,} resamples)."))
    if "control" not in names:
        parts.append(Missing("No control query was judged when the versions were compared: there is no gap."))
    parts += [
        "<details><summary>All figures of the evaluation</summary>",
        *(table(cells.title, cells.head, cells.rows, names=cells.names) for cells in lay_out_tables(evaluation)),
        "</details>",
    ]
    return [*parts, *_version_grades(evaluation, systems, names, rows)]


def _version_grades(
    evaluation: Record, systems: Sequence[str], names: Sequence[str], rows: Mapping[tuple[str, str], Record]
) -> list[Piece]:
    grades = [grade["name"] for grade in evaluation["grades"]]
    charts: list[Piece] = []
    tables: list[Piece] = []
    for part in names:
        graded = {system: rows[system, part] for system in systems if "reliability" in rows[system, part]}
        bins = {system: row["reliability"] for system, row in graded.items()}
        title = f"Reliability on the {TITLES[part]}: accuracy of the predicted grade against confidence in it"
        if bins:
            charts.append(reliability_chart(f"reliability-{part}", title, bins))
        tables += [
            confusion_table(f"{system} on the {TITLES[part]}: pairs by grade", grades, row["confusion"])
            for system, row in graded.items()
        ]
    return [Heading("Grades of both versions"), *side_by_side(charts), *tables]


def _selection(cycle: RecordedCycle) -> list[Piece]:
    parts: list[Piece] = [Heading("Selected samples")]
    if (left := cycle.steps["select"]) is None:
        return [*parts, Missing("Nothing has been selected: the step has not finished.")]
    report = left["report"]
    if left.get("why_empty"):
        parts.append(paragraph(f"Nothing was selected: {left['why_empty']}.", "warn"))
    selected, control = report["selected"], report["control"]
    log, name = report["log"], report["selector"]["name"]
    about = (
        f"Of {log['queries']:,} logged queries {report['candidates']:,} were candidates; {name} chose "
        f"{selected['queries']:,} queries with {selected['pairs']:,} pairs. The control arm, drawn before, has "
        f"{control['queries'] + control['kept']:,} queries."
    )
    slices = [(slice_ or "(none)", f"{pairs:,}") for slice_, pairs in selected["slices"].items()]
    dropped = [(DROPPED.get(reason, reason), f"{count:,}") for reason, count in report["dropped"].items() if count]
    parts += [paragraph(about), *_map(cycle)]
    if slices:
        parts.append(table("Selected pairs by slice", ("slice", "pairs"), slices))
    if dropped:
        parts.append(table("Why the other queries are no candidates", ("reason", "queries"), dropped))
    return parts


def _map(cycle: RecordedCycle) -> list[Piece]:
    found = cycle.map
    if found is None:
        return [Missing("The map of the selected samples was not recorded: they were selected by an earlier version.")]
    points, explained = sorted(found["points"], key=lambda point: point["x"]), found["explained"]
    if explained is None:
        return [Missing("There is no map: there are no queries, or the features of all are the same.")]
    x = [point["x"] for point in points]
    series = [
        Series(title, [point["y"] if point["kind"] == kind else None for point in points], kind="marks")
        for kind, title in KINDS.items() if found["kinds"][kind]["shown"]
    ]  # fmt: skip
    texts = [shorten_query(point["query"]) for point in points]
    chart = Chart(
        "map", "Selected queries among those trained on", x, series, time=False, x_name="first component",
        labels=("query", texts), height=MAP_HEIGHT,
    )  # fmt: skip
    counts = "; ".join(
        f"{found['kinds'][kind]['shown']:,} of {found['kinds'][kind]['queries']:,} {title}"
        for kind, title in KINDS.items()
    )
    about = (
        f"Each mark is a query: {counts}. The first two principal components of the features that the selector reads, "
        "those of the serving version, averaged over a query's items; they hold "
        f"{100 * explained[0]:.1f} % and {100 * explained[1]:.1f} % of the variance of what is shown, so marks that "
        "lie together may be apart in the rest."
    )
    return [chart, paragraph(about)]


def _judging(cycle: RecordedCycle) -> list[Piece]:
    parts: list[Piece] = [Heading("Judging")]
    if (left := cycle.steps["judge"]) is None:
        return [*parts, Missing(f"No label has been recorded: {_why_not(cycle, 'judge')}.")]
    report = left.get("report") or {}
    if not (judges := report.get("judges")):
        return [*parts, Missing("No judge was asked in this step.")]
    rows = [
        (judge["judge"], judge["verdict"], judge["why"] or "", f"{judge['graded']:,}", f"{judge['unanswered']:,}",
         format_cell(judge["gold"]["quadratic"]) if judge["gold"] else "–")
        for judge in judges
    ]  # fmt: skip
    head = ("judge", "verdict", "why", "graded", "unanswered", "kappa on gold")
    names = cycle.run.config.grades.names if cycle.run else [str(grade) for grade in range(len(report["grades"]))]
    given = [(name, f"{count:,}") for name, count in zip(names, report["grades"], strict=True)]
    return [
        *parts, table("Judges", head, rows, names=3), table("Labels by grade", ("grade", "pairs"), given),
    ]  # fmt: skip


def _training(cycle: RecordedCycle) -> list[Piece]:
    run = cycle.run
    if run is None:
        return [Heading("Training"), Missing(f"There is no training: {_why_not(cycle, 'train')}.")]
    about = f"Of {run.title}, which starts from the serving version's weights."
    state = [] if run.result else [callout("warn", "The training has not finished.", [])]
    return [Heading("Training"), paragraph(about), *state, *training_parts(run)]


def _why_not(cycle: RecordedCycle, step: str) -> str:
    """Say why a step has no result."""
    if cycle.outcome is not None:
        return f"the cycle ended before it ({cycle.outcome['outcome']})"
    todo = next(name for name, left in cycle.steps.items() if left is None)
    return "the step has not finished" if todo == step else f"the cycle is at the step {todo}"


def shorten_query(text: str) -> str:
    """Shorten a query to one line of a usual length."""
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
