"""``[select]``: budget, noise filters, selector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Settings, setting
from trainer.dasa.registry import Selector
from trainer.dasa.selectors import SELECTORS

RETIRED = ("contrast", "k_center", "novelty", "typiclust", "uncertainty")  # now in benchmarks/cycle/selectors


class SelectConfig(Settings, table="select", env="DARL_SELECT_"):
    """Table ``[select]``: what to label next."""

    selector: str = setting("herding", "registered selector")
    params: Mapping[str, Any] = setting({}, "the selector's parameters", flag="--param", metavar="KEY=VALUE")
    budget: int = setting(500, "query-item pairs to label for training", least=0)
    items_per_query: int = setting(
        5, "items labelled per query, most from the top of the model's ranking and some from below", least=2
    )
    depth: int = setting(20, "first-stage positions, or search hits, to take items from")
    slice_cap: float = setting(1.0, "largest share of the budget for one slice", above=0, most=1)
    flagged_share: float = setting(0.25, "minimum share of OOD items for a query to be flagged", above=0, most=1)
    control_queries: int = setting(100, "control-arm queries, sampled by traffic before anything is selected", least=0)
    control_items: int = setting(
        10,
        "maximum items labelled per control query, spread over the model's scores: the gate cannot compare "
        "rankings of few items",
        least=2,
    )
    control_keep: float = setting(0.5, "share of the previous cycle's control arm that is kept", least=0, most=1)
    near_threshold: float = setting(
        0.8, "Jaccard similarity of words from which two queries count as the same", above=0, most=1
    )
    near_rows: int = setting(
        100_000, "maximum queries for near-duplicate search; beyond, only identical words count", least=0
    )
    machine_per_minute: int = setting(30, "maximum requests for one query per minute; more count as automated", least=1)
    machine_ids: tuple[str, ...] = setting((), "request-id prefixes of known automated clients, such as probe-")
    noise: float = setting(
        1.5,
        "interquartile ranges above the third quartile from which a query's distance to its 5th neighbour is noise; "
        "0: none", least=0,
    )  # fmt: skip
    noise_requests: int = setting(3, "queries searched at least this often are never noise", least=1)
    known_queries: int = setting(5000, "maximum training queries that coverage starts from, sampled", least=0)
    seed: int = setting(0, "random seed", least=0)

    def check(self) -> None:
        """Check the selector's parameters, and fields that depend on each other."""
        if self.selector in RETIRED:
            raise UsageError(
                f"selector {self.selector!r} was removed: it did not beat random selection of flagged queries",
                todo="use random_flagged, or herding, the default",
            )
        SELECTORS.resolve(self.selector, self.params)
        if self.depth < self.items_per_query:
            raise UsageError(
                f"[select] depth is {self.depth}, less than items_per_query, which is {self.items_per_query}",
                todo="raise depth to at least items_per_query",
            )
        if not all(self.machine_ids):
            raise UsageError("[select] machine_ids holds an empty string", todo="use prefixes such as probe-")

    def make(self) -> tuple[Selector, bool]:
        """Make the selector, and tell whether it may choose unflagged queries."""
        make, params = SELECTORS.resolve(self.selector, self.params)
        selector: Selector = make(**params)
        return selector, self.selector == "random" or params.get("over") == "all"
