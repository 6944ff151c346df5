"""The demo's tables, for a terminal or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from darl_opensearch.cli.demo.backends import CONNECTOR, LOCAL, PYTHON, choose_local
from darl_opensearch.cli.demo.measure import RouteRun, compare_routes, measure_quality
from darl_opensearch.cli.demo.sample import Sample, TestQuery
from darl_opensearch.scores import GradeScale, Scores
from darl_opensearch.stats.bootstrap import Interval
from darl_opensearch.stats.shares import Share, share_of

if TYPE_CHECKING:
    from darl_opensearch.cli.demo.second_act import SecondAct

SERVED = "every fourth, as in the cluster"


def lay_out_quality(runs: Sequence[RouteRun], sample: Sample, gains: Sequence[float]) -> tuple[Table, dict[str, Any]]:
    """Lay out nDCG@10 and judged@10 by slice.

    :param runs: results by route; the first is the first stage.
    :return: the table, and its figures by row and route.
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
    if local := next((run for run in runs if run.name == LOCAL), None):
        served = choose_local(sample.queries)
        groups.append((SERVED, list(served)))
        change = compare_routes(local, runs[-1], sample, served, gains)
        table.caption = f"nDCG@10 {local.name} minus {runs[-1].name}, {change.n} queries: {format_change(change)}"
    figures: dict[str, Any] = {}
    for number, (label, queries) in enumerate(groups):
        row = {run.name: measure_quality(run, sample, queries, gains) for run in runs}
        figures[label.strip()] = row
        first = row[runs[0].name]["queries"]
        table.add_row(label, str(first), *(_cell(row[run.name]) for run in runs), end_section=number == 2)
    return table, figures


def format_change(change: Interval) -> str:
    """Format a difference with its interval: ``-0.001 [-0.003, +0.001]``."""
    return f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def _cell(values: Mapping[str, Any]) -> str:
    ndcg = "–" if values["ndcg@10"] is None else f"{values['ndcg@10']:.3f}"
    return f"{ndcg} ({values['judged@10']:.2f})" if values["judged@10"] is not None else ndcg


def lay_out_ood(shares: Mapping[tuple[bool, bool], Share], alpha: float) -> Table:
    """Lay out the OOD share by kind of query and kind of item.

    :param shares: by (query seen, item seen).
    """
    table = Table(title=f"Share of scored pairs that are OOD (alpha {alpha}; 95 % interval by query)")
    for name in ("", "items of kinds trained on", "items of new kinds"):
        table.add_column(name, justify="right" if name else "left")
    for seen in (True, False):
        cells = [format_share_interval(shares.get((seen, item))) for item in (True, False)]
        table.add_row("queries of kinds trained on" if seen else "queries of new kinds", *cells)
    return table


def format_share_interval(share: Share | None) -> str:
    """Format a share with its interval: ``0.050 [0.030, 0.074]``; a dash for None."""
    if share is None or share.value is None:
        return "–"
    if share.low is None or share.high is None:
        return f"{share.value:.3f}"
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


_ITEMS = {LOCAL: "read for every query", CONNECTOR: "with item states", PYTHON: "with item states"}


def lay_out_latency(runs: Sequence[RouteRun]) -> Table:
    """Lay out latency and the searches that were not reranked."""
    table = Table(title="A search of 10 hits, one at a time")
    for name in ("", "items", "median", "95 %", "searches", "not reranked"):
        table.add_column(name, justify="left" if name in ("", "items") else "right")
    for number, run in enumerate(runs):
        times = run.latency()
        missed = str(len(run.not_reranked)) if number else "–"
        table.add_row(
            run.name, _ITEMS.get(run.name, ""), f"{times['median_ms']:.0f} ms", f"{times['p95_ms']:.0f} ms",
            str(len(run.latency_ms)), missed,
        )  # fmt: skip
    return table


def lay_out_example(
    query: TestQuery,
    before: Sequence[str],
    after: Sequence[tuple[str, Scores, int]],
    names: Mapping[str, str],
    scale: GradeScale,
) -> Table:
    """Show one query's ranking before and after.

    :param after: item id, scores and row of each hit, in the model's order.
    :param names: product names by item id.
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


def open_console() -> Console:
    """Make a console for stdout, wide enough for the tables if it is not a terminal."""
    return Console(width=None if Console().is_terminal else 120, highlight=False)


def lay_out_second_act(act: SecondAct, first: RouteRun, sample: Sample, gains: Sequence[float]) -> tuple[Table, Any]:
    """Lay out both versions on the test queries: quality, and OOD shares of the hits shown.

    :return: the table, and its figures.
    """
    old, new = (f"version {bundle.card.version}" for bundle in (act.first, act.bundle))
    table = Table(title="Second act: before and after the cycle, held-out queries (nDCG@10; share of hits shown OOD)")
    for name in ("queries of", "n", first.name, old, new, f"OOD, {old}", f"OOD, {new}"):
        table.add_column(name, justify="left" if name == "queries of" else "right")
    figures: dict[str, Any] = {}
    for label, seen in (("kinds trained on", True), ("new kinds", False)):
        queries = [query for query in sample.queries if query.seen is seen]
        row = [measure_quality(run, sample, queries, gains) for run in (first, act.before, act.after)]
        shares = [_share_ood(searched.is_ood, queries) for searched in (act.before, act.after)]
        figures[label] = {
            "first": row[0]["ndcg@10"], "before": row[1]["ndcg@10"], "after": row[2]["ndcg@10"],
            "ood_before": shares[0].to_json(), "ood_after": shares[1].to_json(),
        }  # fmt: skip
        cells = [f"{values['ndcg@10']:.3f}" for values in row]
        table.add_row(label, str(row[0]["queries"]), *cells, *map(format_share_interval, shares))
    served = [query for query in sample.queries if query.query_id in act.served[1].ranked]
    change = compare_routes(act.served[1], act.after, sample, served, gains)
    figures["served_minus_python"] = change.to_json()
    table.caption = (
        f"nDCG@10 of {new} as the pipeline serves it minus in Python, {change.n} queries: {format_change(change)}"
    )
    return table, figures


def _share_ood(is_ood: Mapping[str, Sequence[bool]], queries: Sequence[TestQuery]) -> Share:
    shown = [is_ood[query.query_id] for query in queries]
    return share_of([sum(flags) for flags in shown], [len(flags) for flags in shown])


def lay_out_cycle(act: SecondAct) -> Table:
    """Lay out the result of each step of the cycle."""
    steps, table = act.cycle, Table(title=f"Second act: the cycle, step by step ({act.outcome})")
    table.add_column("step")
    table.add_column("what it left")
    table.add_column("s", justify="right")
    selected, judged, trained = steps["select"], steps["judge"], steps["train"]
    lines = {
        "select": f"{selected['selected']} pairs to learn from, {selected['control']} of the control arm",
        "judge": f"{judged['selected']} and {judged['control']} judged by the sample's held-back judgments",
        "train": f"version {trained['version']} on {trained['pairs']['new']} new pairs; "
                 f"{trained['pairs']['ood_dev']} stop it early",
        "export": "ONNX graphs, compared with torch",
        "evaluate": "both versions on ID test and control arm",
        "gate": _gate_line(steps["gate"]),
        "register": "deployed in the cluster, answers as its bundle does",
        "release": "pipelines switched",
    }  # fmt: skip
    for name, left in steps.items():
        table.add_row(name, lines.get(name, ""), f"{left['seconds']:.0f}")
    if act.outcome != "released":
        table.add_row("by hand", "released in spite of the gate, to show the switch and the way back", "")
    back = "version 1 answers again, hit for hit" if act.rolled_back else "version 1 does not answer as before"
    table.add_row("rollback", back, "")
    return table


def _gate_line(gate: Mapping[str, Any]) -> str:
    word = "yes" if gate["passed"] else "no"
    return f"{word}: {'; '.join(gate['reasons'])}" if gate["reasons"] else word
