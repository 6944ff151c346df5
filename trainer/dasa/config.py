"""``[select]``: how much is judged, what counts as noise, who chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Settings, setting
from trainer.dasa.registry import Selector
from trainer.dasa.selectors import SELECTORS

RETIRED = ("contrast", "k_center", "novelty", "typiclust", "uncertainty")  # now in benchmarks/cycle/selectors


class SelectConfig(Settings, table="select", env="DARL_SELECT_"):
    """Table ``[select]``: what is judged next."""

    selector: str = setting("herding", "registered selector")
    params: Mapping[str, Any] = setting({}, "the selector's parameters", flag="--param", metavar="KEY=VALUE")
    budget: int = setting(500, "query-item pairs to be judged for training", least=0)
    items_per_query: int = setting(
        5, "items judged with a query, spread over the model's scores; the top one always", least=2
    )
    depth: int = setting(20, "first-stage positions, or hits of a search, that they are taken from")
    slice_cap: float = setting(1.0, "largest share of the budget that one slice may take", above=0, most=1)
    flagged_share: float = setting(
        0.25, "share of a query's items that are OOD from which the query counts as flagged", above=0, most=1
    )
    control_queries: int = setting(
        100, "queries of the control arm, drawn by traffic before anything is selected", least=0
    )
    control_items: int = setting(
        10, "most items judged with a query of the control arm: the gate sees no order among few", least=2
    )
    control_keep: float = setting(0.5, "share of the previous cycle's control arm that stays in it", least=0, most=1)
    near_threshold: float = setting(
        0.8, "Jaccard similarity of words from which two queries are one; 1: the same words", above=0, most=1
    )
    near_rows: int = setting(
        100_000, "queries up to which nearly the same words are looked for, not just the same ones", least=0
    )
    machine_per_minute: int = setting(
        30, "requests for one query within a minute beyond which they are a machine's", least=1
    )
    machine_ids: tuple[str, ...] = setting((), "beginnings of request ids of known machines, such as probe-")
    noise: float = setting(
        1.5,
        "interquartile ranges beyond the third quartile of the distance to the 5th nearest query from which a query is "
        "noise; 0: none is",
        least=0,
    )
    noise_requests: int = setting(3, "a query searched this often is never noise", least=1)
    known_queries: int = setting(5000, "most training queries that coverage starts from, drawn", least=0)
    seed: int = setting(0, "seed of everything random", least=0)

    def check(self) -> None:
        """Check the selector with its parameters, and fields that need each other."""
        if self.selector in RETIRED:
            raise UsageError(
                f"selector {self.selector!r} was removed: it did not beat a random choice among the flagged queries",
                todo="use random_flagged, or herding, the default",
            )
        SELECTORS.resolve(self.selector, self.params)
        if self.depth < self.items_per_query:
            raise UsageError(
                f"[select] depth is {self.depth}, less than items_per_query, which is {self.items_per_query}",
                todo="take the items from at least as many positions",
            )
        if not all(self.machine_ids):
            raise UsageError("[select] machine_ids holds an empty text", todo="give beginnings such as probe-")

    def make(self) -> tuple[Selector, bool]:
        """Make the selector.

        :return: it, and whether it may choose what is not flagged.
        """
        make, params = SELECTORS.resolve(self.selector, self.params)
        selector: Selector = make(**params)
        return selector, self.selector == "random" or params.get("over") == "all"
