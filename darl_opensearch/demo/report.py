"""The demo's tables, for a terminal or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from darl_opensearch.demo.measure import RouteRun, quality
from darl_opensearch.demo.sample import Sample, TestQuery
from darl_opensearch.monitor import Share
from darl_opensearch.scores import GradeScale, Scores


def quality_table(runs: Sequence[RouteRun], sample: Sample, gains: Sequence[float]) -> tuple[Table, dict[str, Any]]:
    """Lay out nDCG@10 and judged@10 by slice.

    :param runs: ways of searching; the first is the first stage.
    :param sample: queries and grades.
    :param gains: gain of each grade.
    :return: the table, and its figures by row and way.
    """
    table = Table(title="nDCG@10 before and after, held-out queries (judged@10 in brackets)")
    for name in ("queries of", "n", *(run.name for run in runs)):
        table.add_column(name, justify="left" if name == "queries of" else "right")
    groups: list[tuple[str, list[TestQuery]]] = [
        ("all kinds", list(sample.queries)),
        ("kinds trained on", [q for q in sample.queries if q.seen]),
        ("new kinds", [q for q in sample.queries if not q.seen]),
    ]
    slices = sorted({(not q.seen, q.slice) for q in sample.queries})
    groups += [(f"  {name}{' (new)' if new else ''}", [q for q in sample.queries if q.slice == name])
               for new, name in slices]  # fmt: skip
    figures: dict[str, Any] = {}
    for number, (label, queries) in enumerate(groups):
        row = {run.name: quality(run, sample, queries, gains) for run in runs}
        figures[label.strip()] = row
        first = row[runs[0].name]["queries"]
        table.add_row(label, str(first), *(_cell(row[run.name]) for run in runs), end_section=number == 2)
    return table, figures


def _cell(values: Mapping[str, Any]) -> str:
    ndcg = "–" if values["ndcg@10"] is None else f"{values['ndcg@10']:.3f}"
    return f"{ndcg} ({values['judged@10']:.2f})" if values["judged@10"] is not None else ndcg


def ood_table(shares: Mapping[tuple[bool, bool], Share], alpha: float) -> Table:
    """Lay out the share OOD by kind of query and kind of item.

    :param shares: by (query seen, item seen).
    :param alpha: false-alarm rate asked for.
    :return: the table.
    """
    table = Table(title=f"Share of scored pairs that are OOD (alpha {alpha}; 95 % interval by query)")
    for name in ("", "items of kinds trained on", "items of new kinds"):
        table.add_column(name, justify="right" if name else "left")
    for seen in (True, False):
        cells = [share_text(shares.get((seen, item))) for item in (True, False)]
        table.add_row("queries of kinds trained on" if seen else "queries of new kinds", *cells)
    return table


def share_text(share: Share | None) -> str:
    """Print a share with its interval.

    :param share: the share, if there is one.
    :return: text such as ``0.050 [0.030, 0.074]``.
    """
    if share is None or share.value is None:
        return "–"
    if share.low is None or share.high is None:
        return f"{share.value:.3f}"
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def latency_table(runs: Sequence[RouteRun]) -> Table:
    """Lay out the time of a search and the searches that were not reranked.

    :param runs: ways of searching.
    :return: the table.
    """
    table = Table(title="A search of 10 hits, one at a time")
    for name in ("", "median", "95 %", "searches", "not reranked"):
        table.add_column(name, justify="right" if name else "left")
    for number, run in enumerate(runs):
        times = run.latency()
        missed = str(len(run.not_reranked)) if number else "–"
        table.add_row(
            run.name, f"{times['median_ms']:.0f} ms", f"{times['p95_ms']:.0f} ms", str(len(run.latency_ms)), missed
        )
    return table


def example_table(
    query: TestQuery,
    before: Sequence[str],
    after: Sequence[tuple[str, Scores, int]],
    names: Mapping[str, str],
    scale: GradeScale,
) -> Table:
    """Show one query's old and new order.

    :param query: the query.
    :param before: item ids in first-stage order.
    :param after: item id, scores and row of each hit in the model's order.
    :param names: product names by item id.
    :param scale: the grades.
    :return: the table.
    """
    kind = "" if query.seen else ", a kind the model was never taught"
    table = Table(title=f"“{query.query}” ({query.slice}{kind})")
    for name in ("now", "was", "product", "grade", "score", "OOD"):
        table.add_column(name, justify="right" if name in ("now", "was", "score") else "left")
    places = {item_id: place for place, item_id in enumerate(before, 1)}
    for place, (item_id, scores, row) in enumerate(after, 1):
        mark = f"! {scores.ood_score[row]:.3f}" if scores.is_ood[row] else ""
        table.add_row(
            str(place), str(places.get(item_id, "–")), names[item_id], scale.names[int(scores.grade[row])],
            f"{scores.score[row]:.3f}", mark,
        )  # fmt: skip
    return table


def console() -> Console:
    """Where results go: stdout, wide enough for the tables where it is no terminal.

    :return: a rich console.
    """
    return Console(width=None if Console().is_terminal else 120, highlight=False)
