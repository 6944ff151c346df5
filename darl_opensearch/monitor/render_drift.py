"""The drift tests for people: a line a window, then what says drift and what could not be tested."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from darl_opensearch.monitor.drift.report import ALL, AUC, DRIFT, MMD, SHARE, DriftReport, DriftTest, WindowReport
from darl_opensearch.monitor.render import new_console, percent, printed, share_cells, text_table

_COLOURS = {DRIFT: "red", "no drift": "green"}


def render_drift(report: DriftReport, *, width: int | None = None, terminal: bool = False) -> str:
    """Write the drift tests as text.

    :param width: columns to fit it in; wide enough for all when None.
    :return: the text, without a line break at its end; empty where there is no window.
    """
    if not report.windows:
        return ""
    console = new_console(width, terminal)
    against = f"the reference of {report.bundle}" if report.bundle else "alpha alone; --bundle also tests features"
    console.print(f"[bold]Drift[/bold]  against {escape(against)}")
    console.print(f"level 1/{report.one_in} a window: one false alarm in {report.one_in:,} windows without drift")
    table = text_table(
        terminal, "window (UTC)", "model", "queries", "share OOD", "95 % interval", "p", "MMD p", "AUC", "p", "verdict"
    )
    for window in report.windows:
        table.add_row(*_row(window, terminal))
    console.print(table)
    for window in report.windows:
        _print_details(console, window, sample=window.verdict == DRIFT or window is report.latest)
    console.print(_decision(report))
    return printed(console)


def span(window: WindowReport) -> str:
    """Write when a window is."""
    return f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M}"


def whole(window: WindowReport) -> dict[str, DriftTest]:
    """Pick the tests of all of a window's traffic.

    :return: by the test's name.
    """
    return {test.test: test for test in window.tests if test.slice is ALL}


def p_text(test: DriftTest | None) -> str:
    """Write a p-value.

    :param test: a test, or None.
    :return: two digits of it, or a dash.
    """
    return f"{test.p:.2g}" if test else "–"


def _row(window: WindowReport, terminal: bool) -> list[str]:
    tests = whole(window)
    auc = tests.get(AUC)
    verdict = window.verdict.upper() if window.verdict == DRIFT else window.verdict
    if terminal and (colour := _COLOURS.get(window.verdict)):
        verdict = f"[{colour}]{verdict}[/{colour}]"
    return [
        span(window), escape(f"{window.model} {window.version}"), f"{window.queries:,}",
        *share_cells(window.share_ood), p_text(tests.get(SHARE)), p_text(tests.get(MMD)),
        f"{auc.value:.3f}" if auc else "–", p_text(auc), verdict,
    ]  # fmt: skip


def _print_details(console: Console, window: WindowReport, *, sample: bool) -> None:
    said = [*window.reasons, *window.notes]
    if sample and window.sample:
        of = window.sample
        said.append(
            f"features of {of.queries:,} queries ({of.pairs:,} pairs, drawn at {percent(of.rate)}) against"
            f" {of.reference_queries:,} ({of.reference_pairs:,}) of the reference"
            + (f"; {of.unjoined:,} pairs without text" if of.unjoined else "")
        )
    if said:
        console.print(escape(f"{span(window)}, {window.model} {window.version}:"))
    for line in said:
        console.print(f"  {escape(line)}")


def _decision(report: DriftReport) -> str:
    if report.start_cycle:
        return "[red]The latest window has drifted: a cycle is due.[/red]"
    if report.latest is None:
        return "No window could be tested."
    return "The latest window that was tested has not drifted."
