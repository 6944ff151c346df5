"""Tables of an evaluation, as cells for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.stats.flagged import FLAGGED_FIGURES

NAMES = {
    "ap": "MAP", "rr": "MRR", "macro_f1": "macro F1", "quadratic_kappa": "kappa", "off_by_two": "off by two",
    "ece": "ECE", "rps": "RPS", "share_ood": "share OOD",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table with a title; the first ``names`` columns are text, the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int


def name_of(figure: str) -> str:
    """Return a figure's display name: ``nDCG@10`` for ``ndcg@10``."""
    return NAMES.get(figure) or figure.replace("ndcg", "nDCG").replace("p@", "P@")


def lay_out_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of an evaluation that have rows, the most important first."""
    parts = [part["name"] for part in result["parts"]]
    laid_out = [
        _wide(f"Part {name}", [row for row in result["figures"] if row["part"] == name], ("system",))
        for name in parts
    ]  # fmt: skip
    laid_out.append(_wide("Gap: id less the other part", result["gaps"], ("system", "part")))
    laid_out.append(_comparisons(result["comparisons"]))
    laid_out.append(_aurocs(result["auroc"]))
    laid_out.append(_flagged(result["flagged"]))
    laid_out.append(_depths(result))
    laid_out.append(_joined(result["joined"]))
    laid_out.append(_wide("Slices", result["slices"], ("part", "slice", "system")))
    return [table for table in laid_out if table.rows]


def format_cell(value: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Format a figure with its interval: ``.812 [.790, .833]``."""
    if value is None or value["mean"] is None:
        return "–"
    text = _short(value["mean"], signed)
    if value["low"] is None:
        return text
    return f"{text} [{_short(value['low'], signed)}, {_short(value['high'], signed)}]"


def _short(value: float, signed: bool) -> str:
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def _wide(title: str, rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> Table:
    figures = list(dict.fromkeys(figure for row in rows for figure in row["figures"]))
    signed = title.startswith("Gap")
    counts = ("queries",) if rows and "queries" in rows[0] else ()
    cells = tuple(
        (
            *(str(row[key]) or "(none)" for key in keys),
            *(f"{row[count]:,}" for count in counts),
            *(format_cell(row["figures"].get(figure), signed=signed) for figure in figures),
        )
        for row in rows
    )
    return Table(title, (*keys, *counts, *map(name_of, figures)), cells, len(keys))


def _joined(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple((str(row["what"]), f"{row['matched']:,}", f"{row['unmatched']:,}") for row in rows)
    return Table("Joined by ids", ("", "matched", "not matched"), cells, 1)


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple(
        (
            row["system"], row["against"], row["part"], name_of(row["figure"]), format_cell(row, signed=True),
            f"{row['n']:,}", _p(row["p"]), _p(row["p_holm"]),
        )
        for row in rows
    )  # fmt: skip
    head = ("system", "against", "part", "figure", "difference", "queries", "p", "p, Holm")
    return Table("Paired differences, query by query", head, cells, 4)


def _p(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def _aurocs(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple((row["system"], row["part"], format_cell(row)) for row in rows)
    return Table("ood_distance: the other part against id", ("system", "part", "AUROC"), cells, 2)


def _flagged(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple(
        (
            row["system"], row["part"], f"{row['flagged']:,}", f"{row['pairs'] - row['flagged']:,}",
            *(format_cell(row["figures"][figure]) for figure in FLAGGED_FIGURES),
        )
        for row in rows
    )  # fmt: skip
    head = ("system", "part", "flagged", "others", "wrong grade: flagged", "others", "ratio", "RPS: flagged", "others")
    return Table("Grades of pairs that are flagged as out of distribution, and of the others", head, cells, 2)


def _depths(result: Mapping[str, Any]) -> Table:
    figures = [f"{what}@{cutoff}" for what in ("ndcg", "judged") for cutoff in result["cutoffs"]]
    last = f"ndcg@{result['cutoffs'][-1]}"
    cells = tuple(
        (
            row["system"], row["part"], f"{row['depth']:,}",
            *(format_cell(row["figures"].get(name)) for name in figures),
            format_cell(row["gain"].get(last), signed=True),
        )
        for row in result["depths"]
    )  # fmt: skip
    head = ("system", "part", "depth", *map(name_of, figures), f"{name_of(last)} over first stage")
    return Table("Rerank depth", head, cells, 2)
