"""An evaluation as terminal text: the main figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darl_opensearch.errors import one_line
from trainer.evaluate.report.tables import Table, lay_out_tables

WIDE = 6  # columns of numbers that fit a terminal


def render_text(result: Mapping[str, Any]) -> str:
    """Render the main tables as aligned text."""
    blocks = [_block(_upright(table)) for table in lay_out_tables(result) if table.title != "Slices"]
    ends = f"95 % intervals: {result['draws']:,} resamples of the queries, seed {result['seed']}"
    return "\n\n".join([*blocks, ends])


def _upright(table: Table) -> Table:
    """Transpose a table with more figures than fit a terminal."""
    if len(table.head) - table.names <= WIDE:
        return table
    head = ("", *(" ".join(row[: table.names]) for row in table.rows))
    rows = tuple(
        (name, *(row[place] for row in table.rows)) for place, name in enumerate(table.head) if place >= table.names
    )
    return Table(table.title, head, rows, 1)


def _block(table: Table) -> str:
    lines = [[one_line(text) for text in row] for row in (table.head, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]

    def shown(line: list[str]) -> str:
        padded = [
            text.ljust(width) if column < table.names else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([table.title, *(f"  {shown(line)}" for line in lines)])
