"""One HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from darl_opensearch.errors import one_line

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       background: Canvas; color: CanvasText; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid color-mix(in srgb, CanvasText 15%, Canvas); }
.name { text-align: left; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; }
svg { max-width: 100%; height: auto; }
"""


def page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Put a page together.

    :param title: of the window, as text.
    :param body: what is on it, as HTML, a line or more each.
    :param style: CSS beside the common one: lines, each with its break.
    """
    head = f"<title>{escaped(title)}</title>\n<style>{_STYLE}{style}</style>"
    start = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    start += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{start}{head}\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"


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
    return f'<div class="wide"><table>{caption}{thead}<tbody>\n{lines}\n</tbody></table></div>'
