"""``darl search``: one search through the pipeline, before and after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from darl_opensearch.cli.output import emit, note
from darl_opensearch.cli.shared import CLUSTER, JSON
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import one_line
from darl_opensearch.settings import FilePath, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.bundle import Card
    from darl_opensearch.ood import OodLog
    from darl_opensearch.search import SearchOutcome

WIDEST_TEXT = 60
UNEXPLAINED = "the hits are in first-stage order. Check the node's log and the scorer"


@click.command()
@click.argument("query")
@with_options
def cli(
    query: str,
    bundle: InputFolder = setting(
        ..., "Bundle that the pipeline serves, for grade names and alpha.", env="DARL_BUNDLE"
    ),
    cluster: ClusterOptions = CLUSTER,
    index: str = setting(..., "Index to search.", env="DARL_INDEX"),
    pipeline: str = setting("darl", "Name of the search pipeline.", env="DARL_PIPELINE"),
    size: int = setting(10, "Number of hits to show.", least=1, most=1000),
    from_: int = setting(0, "Number of hits to skip, for later pages.", least=0, most=10_000),
    min_grade: str | None = setting(None, "Show only hits of this grade or better: its number or name."),
    min_score: float | None = setting(None, "Show only hits with this score or more.", least=0, most=1),
    drop_ood: bool = setting(False, "Show only hits that are in distribution."),
    query_id: str | None = setting(None, "Id of the query in your logs, for the OOD log."),
    slice_: str | None = setting(None, "Slice of the traffic that the query belongs to, for the OOD log."),
    ood_log: FilePath | None = setting(
        None,
        "SQLite spool for the OOD log.  [default: BUNDLE-NAME.sqlite in the user's state folder]",
        env="DARL_OOD_LOG",
    ),
    no_ood_log: bool = setting(False, "Do not keep an OOD log.", env="DARL_NO_OOD_LOG"),
    ood_text: Literal["full", "hash", "none"] = setting("full", "How to log item texts.", env="DARL_OOD_TEXT"),
    ood_sample_rate: float = setting(
        0.05, "Share of in-distribution pairs to log as well.", least=0, most=1, env="DARL_OOD_SAMPLE_RATE"
    ),
    as_json: bool = JSON,
) -> None:
    """Search for QUERY through the pipeline, and show each hit's rank before and after reranking.

    If the model runs in the cluster, which keeps no OOD log, this command logs the returned hits. Behind a connector
    the scorer logs all candidates; this command logs searches that were not reranked, which the scorer does not see.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.without_text import count_hits_without_text, describe_hits_without_text
    from darl_opensearch.search import PipelineSearch

    target = Cluster.open(cluster)
    target.identify()
    card = Bundle.open(bundle, verify=False).card
    searching = PipelineSearch(target.client, card, index, pipeline)
    outcome = searching.search(
        query, size=size, from_=from_, min_grade=min_grade, min_score=min_score, drop_ood=drop_ood, query_id=query_id,
        slice=slice_,
    )  # fmt: skip
    fetched = min(10_000, max(outcome.window, from_ + size))
    candidates = searching.first_stage(query, size=fetched)
    before = {hit["_id"]: place for place, hit in enumerate(candidates, 1)}
    logged = False
    request, served = outcome.ranked_request(), searching.served
    other = served is not None and (served.name, served.version) != (card.name, card.version)
    if served is not None and other:
        note(
            f"darl: pipeline {pipeline!r} serves {served.label}, but --bundle is {card.name} {card.version}: "
            "nothing is logged. Pass the bundle that it serves.")  # fmt: skip
    if request is not None and not outcome.logged_by_scorer and not no_ood_log and not other:
        with _opened(card, ood_log, text=ood_text, sample_rate=ood_sample_rate) as log:
            logged = log.offer(request)
    if not outcome.reranked:
        scored = candidates[: outcome.window]
        reason = describe_hits_without_text(count_hits_without_text(scored), len(scored))
        note(f"darl: not reranked: {reason or UNEXPLAINED}.")
    result = outcome.to_json() | {"logged": logged}
    for hit in result["hits"]:
        hit["position_before"] = before.get(hit["id"])
    emit(result, as_json=as_json, text="" if as_json else format_outcome(outcome, before))


@contextlib.contextmanager
def _opened(card: Card, spool: Path | None, **settings: Any) -> Iterator[OodLog]:
    import platformdirs

    from darl_opensearch.ood import OodLog

    spool = spool or platformdirs.user_state_path("darl-opensearch") / f"{card.name}.sqlite"
    spool.parent.mkdir(parents=True, exist_ok=True)
    with OodLog.open(spool, model=card.name, version=card.version, alpha=card.ood.alpha, **settings) as log:
        yield log


def format_outcome(outcome: SearchOutcome, before: dict[str, int]) -> str:
    """Format the hits as a table, with each one's position before reranking."""
    if not outcome.hits and not outcome.dropped:
        return "no hits"
    lines = [f"{'now':>3}  {'before':>6}  {'score':>6}  {'grade':<14}  ood   item"]
    for hit in outcome.hits:
        was = before.get(hit.id)
        score = "" if hit.score is None else f"{hit.score:.3f}"
        mark = "" if hit.ood_score is None else f"{hit.ood_score:.2f}" + ("!" if hit.is_ood else " ")
        text = one_line(str(hit.source.get("darl_text") or hit.id)[:1000])
        text = text if len(text) <= WIDEST_TEXT else text[: WIDEST_TEXT - 1] + "…"
        place, grade = "-" if was is None else was, hit.grade_name or ""
        lines.append(f"{hit.position:>3}  {place:>6}  {score:>6}  {grade:<14}  {mark:<5} {text}")
    ood_hits = sum(bool(hit.is_ood) for hit in outcome.hits)
    lines.append(
        f"{'reranked' if outcome.reranked else 'NOT reranked'} in {outcome.took_ms:.0f} ms ({outcome.mode}); "
        f"{ood_hits} of {len(outcome.hits)} hits out of distribution (!)"
        + (f"; {len(outcome.dropped)} more do not reach the thresholds" if outcome.dropped else "")
    )
    return "\n".join(lines)
