"""An evaluation as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from darl_opensearch.errors import one_line
from trainer.evaluate.report.pictures import pictures
from trainer.evaluate.report.tables import Table, tables

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
code { overflow-wrap: anywhere; }
"""


def render_page(result: Mapping[str, Any]) -> str:
    """Write the page.

    :param result: as ``evaluation.json`` holds it.
    :return: HTML.
    :raises MissingExtra: without matplotlib, which draws the pictures.
    """
    evaluated = ", ".join(system["name"] for system in result["systems"] if system["evaluated"])
    body = [
        f"<h1>Evaluation of {_text(evaluated)}</h1>",
        f"<p>{_about(result)}</p>",
        *(_figure(picture.title, picture.svg) for picture in pictures(result)),
        "<h2>Figures</h2>",
        *(_table(table) for table in tables(result)),
        *_confusions(result),
        "<h2>What was evaluated</h2>",
        _table(_files(result)),
    ]
    head = f"<title>Evaluation of {_text(evaluated)}</title>\n<style>{_STYLE}</style>"
    start = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    start += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{start}{head}\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"


def _text(value: object) -> str:
    return escape(one_line(str(value)))


def _about(result: Mapping[str, Any]) -> str:
    gains = ", ".join(f"{_text(grade['name'])} {grade['gain']:g}" for grade in result["grades"])
    relevant = _text(result["grades"][result["relevant_from"]]["name"])
    return (
        f"Gains: {gains}. P, MAP and MRR count an item as relevant from “{relevant}” on. Intervals are 95 %, from "
        f"{result['draws']:,} resamples of the queries, seed {result['seed']}; p-values are two-sided. "
        "Equal scores were ordered at random."
    )


def _figure(title: str, svg: str) -> str:
    label = _text(title)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>\n<figcaption>{label}</figcaption>\n{svg}\n</figure>"


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        marks = ['class="name"' if place < table.names else "" for place in range(len(cells))]
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{f' {mark}' if mark else ''}>{_text(cell)}</{tag}>"
            for cell, mark in zip(cells, marks, strict=True)
        )

    lines = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row(table.head, 'th')}</tr></thead>"
    caption = f"<caption>{_text(table.title)}</caption>"
    return f'<div class="wide"><table>{caption}{head}<tbody>\n{lines}\n</tbody></table></div>'


def _confusions(result: Mapping[str, Any]) -> list[str]:
    names = [grade["name"] for grade in result["grades"]]
    return [
        _table(
            Table(
                f"{row['system']} on {row['part']}: given grade by predicted grade, pairs",
                ("given", *names),
                tuple(
                    (name, *(f"{n:,}" for n in counts)) for name, counts in zip(names, row["confusion"], strict=True)
                ),
                1,
            )
        )
        for row in result["figures"]
        if "confusion" in row
    ]


def _files(result: Mapping[str, Any]) -> Table:
    rows = [("system", system["name"], system["kind"], *_file(system)) for system in result["systems"]]
    rows += [("part", part["name"], f"{part['queries']:,} queries, {part['pairs']:,} pairs", *_file(part))
             for part in result["parts"]]  # fmt: skip
    rows += [("items", "", "", *_file(file)) for file in result["items"]]
    if result["first_stage"]:
        rows.append(("first stage", "", result["first_stage"]["kind"], *_file(result["first_stage"])))
    return Table("Files", ("what", "name", "kind", "path", "SHA-256"), tuple(rows), 5)


def _file(row: Mapping[str, Any]) -> tuple[str, str]:
    return row.get("path", ""), row.get("sha256", "")[:16]
