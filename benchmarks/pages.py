"""Results as Markdown, and the pages that show them between marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Render = Callable[[dict[str, Any]], str]
Sections = Mapping[str, tuple[Path, Render]]


@dataclass(frozen=True)
class Pages:
    """Pages with their marked sections, and pictures, all made of results on disk.

    :param sections: of all pages.
    :param pictures: by file, the result and what draws it; a picture without its result stays as it is.
    """

    pages: tuple[Path, ...]
    sections: Sections
    pictures: Mapping[Path, tuple[Path, Render]] = field(default_factory=dict)

    def refresh(self) -> None:
        """Bring pages and pictures up to date."""
        for path, text in self._render().items():
            path.write_text(text, encoding="utf-8")

    def is_fresh(self) -> bool:
        """Whether pages and pictures show the results on disk."""
        return not self._find_stale()

    def main(self, argv: Sequence[str]) -> int:
        """Render, or with ``--check`` tell what is stale; 1 if something is."""
        if "--check" not in argv:
            self.refresh()
            return 0
        stale = [path.name for path in self._find_stale()]
        print(f"stale: {', '.join(stale)}" if stale else "up to date")
        return int(bool(stale))

    def _find_stale(self) -> list[Path]:
        return [
            path for path, text in self._render().items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]  # fmt: skip

    def _render(self) -> dict[Path, str]:
        texts = {page: filled(page.read_text(encoding="utf-8"), self.sections) for page in self.pages}
        return texts | {
            picture: draw(json.loads(result.read_text(encoding="utf-8")))
            for picture, (result, draw) in self.pictures.items()
            if result.is_file()
        }


def filled(text: str, sections: Sections) -> str:
    """Fill a page's marked sections from the results on disk.

    :param text: with ``<!-- name: begin -->`` and ``<!-- name: end -->``.
    :param sections: by name, the file of the result, and what makes Markdown of it. Where the file's name has a ``*``,
        as in ``peers*.json``, results of other machines or settings are shown after the first.
    :return: the text, up to date; a section without its result stays as it is.
    """
    for name, (path, render) in sections.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        results = sorted(path.parent.glob(path.name), key=lambda result: (len(result.stem), result.stem))
        if found and closed and results:
            body = "\n\n".join(render(json.loads(result.read_text(encoding="utf-8"))) for result in results)
            text = f"{before}{begin}\n{body}\n\n{end}{after}"
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left, the others right.

    :param header: column names.
    :param rows: cells as text.
    :return: lines without a final break; columns are padded, so that it also reads as plain text.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def difference(claim: dict[str, Any]) -> str:
    """A difference with its interval.

    :param claim: of the result.
    :return: ``+.0170 [+.0080, +.0260]``.
    """
    return f"{signed(claim['mean'])} [{signed(claim['low'])}, {signed(claim['high'])}]"


def signed(value: float) -> str:
    """A number with its sign and four places, without a leading zero.

    :param value: between -10 and 10.
    :return: ``+.0170``.
    """
    return f"{value:+.4f}".replace("0.", ".", 1)


def plain(value: float) -> str:
    """A number with four places, without a leading zero.

    :param value: of a measure.
    :return: ``.0170``.
    """
    return f"{value:.4f}".replace("0.", ".", 1)
