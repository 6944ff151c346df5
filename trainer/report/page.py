"""A run's or a cycle's report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.io.writing import write_file
from darl_opensearch.web.chart import Chart
from darl_opensearch.web.markup import escaped
from darl_opensearch.web.page import page
from trainer.report.cycle import cycle_parts
from trainer.report.parts import Heading, Missing, Piece, callout
from trainer.report.recorded import RecordedCycle, RecordedRun, read_recorded
from trainer.report.training import training_parts

REPORT = "report.html"
_STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 0 2rem; }
.charts > * { min-width: 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
td.name { min-width: 7rem; }
.missing { color: var(--muted); border-left: .35rem solid var(--line); padding-left: .75rem; }
"""


@dataclass(frozen=True)
class WrittenReport:
    """A report on disk.

    :param of: ``run`` or ``cycle``.
    :param missing: what the page says was not recorded, a sentence each.
    """

    path: Path
    of: str
    missing: tuple[str, ...]


def write_report(folder: Path, path: Path | None = None) -> WrittenReport:
    """Write the report of a run or a cycle.

    :param folder: of the run or the cycle, finished or not.
    :param path: where to; None: ``report.html`` in the folder.
    :raises UsageError: if the folder is neither.
    :raises InputError: if a file in it is not what was written.
    """
    recorded = read_recorded(folder)
    html, missing = render_recorded(recorded)
    path = path or folder / REPORT
    write_file(path, html)
    return WrittenReport(path, "run" if isinstance(recorded, RecordedRun) else "cycle", missing)


def render_recorded(recorded: RecordedRun | RecordedCycle) -> tuple[str, tuple[str, ...]]:
    """Render the page of what a run or a cycle has recorded.

    :return: the page, and what it says is missing.
    """
    if isinstance(recorded, RecordedRun):
        title, pieces = f"Training of {recorded.title}", [_state(recorded), *training_parts(recorded)]
    else:
        title, pieces = recorded.title, cycle_parts(recorded)
    charts = [piece for piece in pieces if isinstance(piece, Chart)]
    missing = tuple(piece.why for piece in pieces if isinstance(piece, Missing))
    body = [f"<h1>{escaped(title)}</h1>", *map(_html, pieces)]
    body.insert(1, _contents([piece for piece in pieces if isinstance(piece, Heading)]))
    return page(title, body, style=_STYLE, charts=charts), missing


def _state(run: RecordedRun) -> Piece:
    names: Sequence[str] = run.config.stages.run
    if run.result is not None:
        kept = sum(stage["kept"] for stage in run.stages)
        return callout("good", "Finished.", [f"{kept} of {len(run.stages)} stages were kept."])
    done = f"{len(run.stages)} of {len(names)} stages are done; the same darl train command resumes it."
    return callout("warn", "Not finished.", [done])


def _html(piece: Piece) -> str:
    match piece:
        case Chart():
            return piece.figure()
        case Heading():
            return f'<h2 id="{piece.anchor}">{escaped(piece.text)}</h2>'
        case Missing():
            return f'<p class="missing">{escaped(piece.why)}</p>'
    return piece


def _contents(headings: Sequence[Heading]) -> str:
    links = "".join(f'<li><a href="#{one.anchor}">{escaped(one.text)}</a></li>' for one in headings)
    return f'<nav aria-label="On this page"><ul>{links}</ul></nav>'
