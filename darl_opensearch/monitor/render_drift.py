"""The drift tests as text: one line per window, then reasons and notes."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from darl_opensearch.monitor.drift.report import ALL, AUC, DRIFT, MMD, NO_DRIFT, SHARE, DriftReport, WindowReport
from darl_opensearch.monitor.render import format_percent, format_share, make_table, new_console, read_console

_COLOURS = {DRIFT: "red", NO_DRIFT: "green"}


def render_drift(report: DriftReport, *, width: int | None = None, terminal: bool = False) -> str:
    """Render the drift tests as text, without a final line break; empty without windows.

    :param width: columns; 200 if None.
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
    console.print(f"[red]{report.decision}[/red]" if report.start_cycle else report.decision)
    return read_console(console)


def format_span(window: WindowReport) -> str:
    """Format a window's start and end."""
    return f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M}"


def format_tests(window: WindowReport) -> tuple[str, str, str, str]:
    """Format a window's tests of all traffic: p of the share, p of the MMD, AUC, p of the AUC; dashes if missing."""
    tests = {test.test: test for test in window.tests if test.slice is ALL}
    share, mmd, auc = (f"{tests[name].p:.2g}" if name in tests else "–" for name in (SHARE, MMD, AUC))
    return share, mmd, f"{tests[AUC].value:.3f}" if AUC in tests else "–", auc


def _row(window: WindowReport, terminal: bool) -> list[str]:
    verdict = window.verdict.upper() if window.verdict == DRIFT else window.verdict
    if terminal and (colour := _COLOURS.get(window.verdict)):
        verdict = f"[{colour}]{verdict}[/{colour}]"
    return [
        format_span(window), escape(f"{window.model} {window.version}"), f"{window.queries:,}",
        *format_share(window.share_ood), *format_tests(window), verdict,
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
