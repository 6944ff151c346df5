"""An evaluation as one self-contained HTML file: no network, scripts or fonts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darl_opensearch.web.markup import escaped, figure, table
from darl_opensearch.web.page import page
from trainer.evaluate.report.pictures import Picture, draw_pictures
from trainer.evaluate.report.tables import Table, lay_out_tables


def render_evaluation_page(result: Mapping[str, Any]) -> str:
    """Render the page.

    :raises MissingExtra: without matplotlib.
    """
    title = "Evaluation of " + ", ".join(system["name"] for system in result["systems"] if system["evaluated"])
    body = [
        f"<h1>{escaped(title)}</h1>",
        f"<p>{_about(result)}</p>",
        *(_figure(picture) for picture in draw_pictures(result)),
        "<h2>Figures</h2>",
        *(_table(cells) for cells in lay_out_tables(result)),
        *_confusions(result),
        "<h2>What was evaluated</h2>",
        _table(_files(result)),
    ]
    return page(title, body, svg=True)


def _about(result: Mapping[str, Any]) -> str:
    gains = ", ".join(f"{escaped(grade['name'])} {grade['gain']:g}" for grade in result["grades"])
    relevant = escaped(result["grades"][result["relevant_from"]]["name"])
    return (
        f"Gains: {gains}. P, MAP and MRR count an item as relevant from “{relevant}” on. Intervals are 95 %, from "
        f"{result['draws']:,} resamples of the queries, seed {result['seed']}; p-values are two-sided. "
        "Equal scores were ordered at random."
    )


def _figure(picture: Picture) -> str:
    named = f'<svg role="img" aria-label="{escaped(picture.title)}"'
    return figure(picture.title, picture.svg.replace("<svg", named, 1))


def _table(cells: Table) -> str:
    return table(cells.title, cells.head, cells.rows, names=cells.names)


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
