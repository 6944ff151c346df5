"""The parts of a report about a training run: stages, curves, both dev sets, grades, the OOD detector, data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.stats.flagged import FLAGGED_FIGURES
from darl_opensearch.web.chart import Chart, Series
from darl_opensearch.web.markup import table
from trainer.evaluate.report.tables import format_cell, name_of
from trainer.report.parts import (
    Heading,
    Missing,
    Piece,
    by_name,
    confusion_table,
    intervals,
    paragraph,
    reliability_chart,
    side_by_side,
)
from trainer.report.recorded import Record, RecordedRun
from trainer.stages.dev_sets import GAP
from trainer.stages.plan import START

SETS = {"dev": "ID dev queries", "ood_dev": "OOD dev queries"}
_GRADING = ("macro_f1", "quadratic_kappa", "ece")
_COUNTS = ("set_aside", "without_text")  # of the run's data, beside the files by role
_EARLIER = "was written by an earlier version"


@dataclass(frozen=True)
class _When:
    """Figures of the dev sets at one time.

    :param figures: by set.
    :param order: intervals by set, and of the gap.
    """

    name: str
    figures: Mapping[str, Record]
    order: Mapping[str, Record]

    def measure(self, of: str, measure: str) -> Record | None:
        """Find a set's figure of order, without an interval if none was recorded; None without the figure."""
        if (interval := self.order.get(of)) is not None:
            return interval
        value = self.figures.get(of, {}).get(measure)
        return None if value is None else {"mean": value, "low": None, "high": None}


def training_parts(run: RecordedRun) -> list[Piece]:
    """Lay out a training run."""
    return [
        *_stages(run), *_order(run), *_curves(run), *_grades(run), *_slices(run), *_detector(run), *_data(run),
    ]  # fmt: skip


def describe_decision(stage: Record) -> str:
    """Say what became of a stage, and who decided."""
    if "rps_gain" not in stage:  # a run of an earlier version, which decided by nDCG
        return f"{'kept' if stage['kept'] else 'rolled back'} by an earlier version"
    if "coefficient" in stage:
        return f"coefficient {stage['coefficient']:g}" + ("" if stage["coefficient"] else ": the previous weights")
    if stage.get("decided_by"):
        return f"left to {stage['decided_by']}"
    if stage["kept"]:
        return "kept"
    return "rolled back: no gain beyond one standard error, or a loss beyond one"


def _stages(run: RecordedRun) -> list[Piece]:
    names = run.config.stages.run
    rows = [
        (stage["stage"], describe_decision(stage), " and ".join(SETS[role] for role in stage["judged_on"]),
         *(format_cell(stage.get(key), signed=True) for key in ("rps_gain", "gain")),
         f"{stage.get('rps_gain', stage['gain'])['n']:,}",
         f"{stage.get('out_of_fold', 0):,}")
        for stage in run.stages
    ]  # fmt: skip
    rows += [(name, "not finished", "", *["–"] * 4) for name in names[len(run.stages) :]] if run.result is None else []
    head = ("stage", "decision", "decided on", "gain in RPS", "gain in nDCG", "queries", "of them out of fold")
    parts: list[Piece] = [Heading("Stages")]
    parts.append(
        paragraph(
            "A stage is kept if its paired gain in RPS or in nDCG exceeds one standard error and neither falls by more "
            "than one. Intervals are 95 %, over queries; positive is better."
        )
    )
    return [*parts, table("Stages", head, rows, names=3) if rows else Missing("The run has no stages.")]


def _times(run: RecordedRun) -> list[_When]:
    """List the start, each finished stage, and the end."""
    result, at = run.result, list[_When]()

    def figures(dev: str, ood_dev: str) -> dict[str, Record]:
        return {role: result[key] for role, key in (("dev", dev), ("ood_dev", ood_dev)) if result and key in result}

    order = (result or {}).get("ndcg_intervals", {})
    if result is not None:
        first = {role: order[key] for role, key in START.items() if key in order}
        at.append(_When("start", figures("start", "ood_dev_start"), first))
    for stage in run.stages:
        name = stage["stage"] if stage["kept"] else f"{stage['stage']} (rolled back)"
        at.append(_When(name, stage["figures"], stage.get("ndcg_intervals", {})))
    if result is not None:
        last = {role: order[role] for role in START if role in order}
        at.append(_When("calibrated", figures("dev", "ood_dev"), last))
    return at


def _order(run: RecordedRun) -> list[Piece]:
    """Chart order on both dev sets and the gap, and list all figures."""
    at, measure, parts = _times(run), run.measure, list[Piece]([Heading("In and out of distribution, by stage")])
    if not at:
        return [*parts, Missing("No stage has finished, so there are no figures yet.")]
    names, name = [when.name for when in at], name_of(measure)
    found = {role: [when.measure(role, measure) for when in at] for role in SETS}
    series = [intervals(title, found[role]) for role, title in SETS.items() if any(found[role])]
    charts: list[Piece] = []
    if series:
        charts.append(by_name("order", f"{name} by stage", names, series, x_name="after", top=1.05))
    gaps = [when.order.get(GAP) for when in at]
    if any(gaps):
        title = f"Gap in {name} by stage: ID less OOD dev queries"
        charts.append(by_name("gap", title, names, [intervals("gap", gaps)], x_name="after", level=(0.0, "no gap")))
    parts += side_by_side(charts)
    parts += _left_out(run, at, found, gaps)
    rows = [
        (when.name, title, format_cell(when.measure(role, measure)),
         *(_plain(when.figures[role].get(key)) for key in _GRADING),
         *(f"{when.figures[role][key]:,}" for key in ("queries", "pairs")))
        for when in at for role, title in SETS.items() if role in when.figures
    ]  # fmt: skip
    head = ("after", "set", f"{name}, 95 % interval", *map(name_of, _GRADING), "queries with a relevant item", "pairs")
    explained = (
        "start: before training; the grades of a head that was never trained mean nothing. Stages are measured before "
        "grades are calibrated; calibrated: the model of this run."
    )
    return [*parts, paragraph(explained), table("Figures by stage", head, rows, names=2)]


def _left_out(
    run: RecordedRun, at: Sequence[_When], found: Mapping[str, Sequence[Record | None]], gaps: Sequence[Record | None]
) -> list[Piece]:
    parts: list[Piece] = []
    if run.result is None:
        parts.append(
            Missing("The run has not finished: figures of the start and of the end are written with the result.")
        )
    if "ood_dev" not in run.data:
        return [
            *parts,
            Missing("The run has no OOD dev queries ([data] ood_dev), so there is no OOD figure and no gap."),
        ]
    without = [when.name for when, value in zip(at, found["ood_dev"], strict=True) if value is None]
    if without:
        parts.append(Missing(f"No OOD figure was recorded after: {', '.join(without)}."))
    without = [when.name for when, gap in zip(at, gaps, strict=True) if gap is None]
    if without:
        parts.append(Missing(f"No gap was recorded after: {', '.join(without)}."))
    return parts


def _curves(run: RecordedRun) -> list[Piece]:
    charts, missing = list[Piece](), list[Piece]()
    for number, stage in enumerate(run.stages):
        drawn = _stage_curves(number, stage)
        charts += drawn
        if not drawn:
            missing.append(Missing(f"Stage {stage['stage']} recorded no curve."))
    if not run.stages:
        missing.append(Missing("No stage has finished, so there is no curve yet."))
    return [Heading("Curves"), *side_by_side(charts), *missing]


def _stage_curves(number: int, stage: Record) -> list[Chart]:
    title = f"{stage['stage']}{'' if stage['kept'] else ' (rolled back)'}"
    if curve := stage.get("curve"):
        x = [point["coefficient"] for point in curve]
        both = [("ID dev RPS", "id_rps"), ("OOD dev RPS", "ood_rps")]
        series = [Series(name, [point[key] for point in curve]) for name, key in both]
        chosen = ((stage["coefficient"], "chosen"),)
        return [
            Chart(f"mix-{number}", f"{title}: RPS by coefficient, lower is better", x, series, time=False,
                  x_name="coefficient", marks=chosen)
        ]  # fmt: skip
    steps, charts = stage.get("history") or [], []
    for key, what, lines in (
        ("loss", "loss", (("training loss", "train_loss"), ("dev loss", "dev_loss"))),
        ("rps", "dev RPS, lower is better", (("dev RPS", "dev_rps"),)),
    ):
        values = {name: [row.get(column) for row in steps] for name, column in lines}
        series = [Series(name, some) for name, some in values.items() if any(value is not None for value in some)]
        if series:
            x = [row["step"] for row in steps]
            charts.append(Chart(f"{key}-{number}", f"{title}: {what}", x, series, time=False, x_name="step"))
    return charts


def _grades(run: RecordedRun) -> list[Piece]:
    parts: list[Piece] = [Heading("Grades of the dev queries")]
    if run.result is None:
        return [*parts, Missing("The run has not finished: grades are measured at its end.")]
    grading = run.result.get("grading")
    if not grading:
        return [*parts, Missing(f"Confusion and reliability were not recorded: the run {_EARLIER}.")]
    names = run.config.grades.names
    explained = (
        "Grades of the ID dev queries are calibrated on the other ID dev queries; on OOD dev queries the model grades "
        "as it will. Each mark has about as many pairs."
    )
    bins = {SETS[role]: found["reliability"] for role, found in grading.items()}
    tables = [
        confusion_table(f"{SETS[role]}: pairs by given and predicted grade", names, found["confusion"])
        for role, found in grading.items()
    ]
    title = "Reliability: accuracy of the predicted grade against confidence in it"
    return [*parts, paragraph(explained), *tables, reliability_chart("reliability", title, bins)]


def _slices(run: RecordedRun) -> list[Piece]:
    if not (slices := (run.result or {}).get("dev_slices")):
        return []
    rows = [
        (name or "(none)", f"{found['queries']:,}", *(_plain(found[key]) for key in ("start", "trained")))
        for name, found in slices.items()
    ]
    return [
        table(f"{name_of(run.measure)} of the ID dev queries by slice", ("slice", "queries", "start", "trained"), rows)
    ]


def _detector(run: RecordedRun) -> list[Piece]:
    parts: list[Piece] = [Heading("OOD detector")]
    if run.result is None:
        return [*parts, Missing("The run has not finished: the detector is fitted at its end.")]
    ood = run.result["ood"]
    about = (
        f"{ood['detector']} on {ood['features']} features, alpha {ood['alpha']:g}, calibrated on "
        f"{ood['calibration_pairs']:,} pairs of {ood['calibration_queries']:,} queries."
    )
    if apart := ood.get("items_set_aside"):
        about += f" Nearly all items are judged: {apart:,} were set aside for it."
    kinds = (("not in training", "unseen"), ("in training", "seen"))
    alarms = [(kind, format_cell(ood.get(f"false_alarms_{key}_items"))) for kind, key in kinds]
    parts += [paragraph(about), table("False alarms on held-out traffic", ("items", "share flagged"), alarms)]
    if not (flagged := ood.get("flagged")):
        return [*parts, Missing("How wrong the grades of flagged pairs are was not measured.")]
    rows = [
        (SETS[role], f"{found['flagged']:,}", f"{found['pairs'] - found['flagged']:,}",
         *(format_cell(found.get(name)) for name in FLAGGED_FIGURES))
        for role, found in flagged.items()
    ]  # fmt: skip
    head = ("set", "flagged", "others", "wrong grade: flagged", "others", "ratio", "RPS: flagged", "others")
    return [*parts, table("Grades of pairs flagged as out of distribution, and of the others", head, rows)]


def _data(run: RecordedRun) -> list[Piece]:
    rows = [
        (role, f"{found['queries']:,}" if "queries" in found else "",
         f"{found['pairs' if 'pairs' in found else 'count']:,}", found["sha256"][:16])
        for role, found in run.data.items() if role not in _COUNTS
    ]  # fmt: skip
    config = run.config
    also = "".join(f" + {term.weight:g} × {term.name}" for term in config.loss.also)
    about = (
        f"Base model {config.model.base}, backbone {config.model.backbone}; loss {config.loss.grade} + "
        f"{config.loss.rank_weight:g} × {config.loss.rank}{also}; seed {config.seed}."
    )
    head = ("role", "queries", "pairs or items", "SHA-256")
    return [Heading("Data"), paragraph(about), table("What was read", head, rows)]


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"
