"""Pieces of HTML, in which texts are only ever text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from darl_opensearch.errors import one_line


def escaped(value: object) -> str:
    """Write a value as text: what looks like markup in it is none.

    :param value: anything; a query of a user's, say.
    """
    return escape(one_line(str(value)))


def figure(title: str, svg: str) -> str:
    """Show a picture.

    :param title: its caption, as text.
    """
    return f"<figure>\n<figcaption>{escaped(title)}</figcaption>\n{svg}\n</figure>"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """Lay a table out; it scrolls by itself where it is wider than the window.

    :param title: its caption, as text.
    :param head: column names, as text.
    :param rows: cells, as text, as many as there are columns.
    :param names: how many columns are names, which go to the left; the others are numbers.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        marks = [' class="name"' if place < names else "" for place in range(len(cells))]
        return "".join(f"<{tag}{scope}{m}>{escaped(c)}</{tag}>" for c, m in zip(cells, marks, strict=True))

    lines = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    thead = f"<thead><tr>{row(head, 'th')}</tr></thead>"
    caption = f"<caption>{escaped(title)}</caption>"
    # Focusable, so that a keyboard can scroll it.
    wide = f'<div class="wide" role="region" aria-label="{escaped(title)}" tabindex="0">'
    return f"{wide}<table>{caption}{thead}<tbody>\n{lines}\n</tbody></table></div>"
