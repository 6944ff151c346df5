"""The drift tests as text: one line per window, then the reasons and what could not be tested."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from darl_opensearch.monitor.drift.report import ALL, AUC, DRIFT, MMD, SHARE, DriftReport, DriftTest, WindowReport
from darl_opensearch.monitor.render import format_percent, format_share, make_table, new_console, read_console

_COLOURS = {DRIFT: "red", "no drift": "green"}


def render_drift(report: DriftReport, *, width: int | None = None, terminal: bool = False) -> str:
    """Render the drift tests as text, without a final line break; empty without windows.

    :param width: columns to fit it in; 200 if None.
    """
    if not report.windows:
        return ""
    console = new_console(width, terminal)
    against = f"the reference of {report.bundle}" if report.bundle else "alpha alone; --bundle also tests features"
    console.print(f"[bold]Drift[/bold]  against {escape(against)}")
    console.print(f"level 1/{report.one_in} per window: one false alarm in {report.one_in:,} windows without drift")
    table = make_table(
        terminal, "window (UTC)", "model", "queries", "share OOD", "95 % interval", "p", "MMD p", "AUC", "p", "verdict"
    )
    for window in report.windows:
        table.add_row(*_row(window, terminal))
    console.print(table)
    for window in report.windows:
        _print_details(console, window, sample=window.verdict == DRIFT or window is report.latest)
    console.print(_decision(report))
    return read_console(console)


def format_span(window: WindowReport) -> str:
    """Format a window's start and end."""
    return f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M}"


def select_whole(window: WindowReport) -> dict[str, DriftTest]:
    """Select the tests of all traffic of a window, by name."""
    return {test.test: test for test in window.tests if test.slice is ALL}


def format_p(test: DriftTest | None) -> str:
    """Format a p-value to two digits; a dash without a test."""
    return f"{test.p:.2g}" if test else "–"


def _row(window: WindowReport, terminal: bool) -> list[str]:
    tests = select_whole(window)
    auc = tests.get(AUC)
    verdict = window.verdict.upper() if window.verdict == DRIFT else window.verdict
    if terminal and (colour := _COLOURS.get(window.verdict)):
        verdict = f"[{colour}]{verdict}[/{colour}]"
    return [
        format_span(window), escape(f"{window.model} {window.version}"), f"{window.queries:,}",
        *format_share(window.share_ood), format_p(tests.get(SHARE)), format_p(tests.get(MMD)),
        f"{auc.value:.3f}" if auc else "–", format_p(auc), verdict,
    ]  # fmt: skip


def _print_details(console: Console, window: WindowReport, *, sample: bool) -> None:
    lines = [*window.reasons, *window.notes]
    if sample and window.sample:
        sampled = window.sample
        lines.append(
            f"features of {sampled.queries:,} queries ({sampled.pairs:,} pairs, sampled at"
            f" {format_percent(sampled.rate)}) against {sampled.reference_queries:,} ({sampled.reference_pairs:,})"
            " of the reference" + (f"; {sampled.unjoined:,} pairs without text" if sampled.unjoined else "")
        )
    if lines:
        console.print(escape(f"{format_span(window)}, {window.model} {window.version}:"))
    for line in lines:
        console.print(f"  {escape(line)}")


def _decision(report: DriftReport) -> str:
    if report.start_cycle:
        return "[red]The latest window has drifted: a cycle is due.[/red]"
    if report.latest is None:
        return "No window could be tested."
    return "The latest tested window has not drifted."
