"""``[select]``: how much is judged, what counts as noise, who chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.fields import check_least, option, parameters
from trainer.dasa.registry import Selector
from trainer.dasa.selectors import SELECTORS

RETIRED = ("contrast", "k_center", "novelty", "typiclust", "uncertainty")  # now in benchmarks/cycle/selectors


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Table ``[select]``: what is judged next."""

    selector: str = option("herding", "registered selector")
    params: Mapping[str, Any] = parameters("the selector's parameters")
    budget: int = option(500, "query-item pairs to be judged for training")
    items_per_query: int = option(5, "items judged with a query, spread over the model's scores; the top one always")
    depth: int = option(20, "first-stage positions, or hits of a search, that they are taken from")
    slice_cap: float = option(1.0, "largest share of the budget that one slice may take")
    flagged_share: float = option(0.25, "share of a query's items that are OOD from which the query counts as flagged")
    control_queries: int = option(100, "queries of the control arm, drawn by traffic before anything is selected")
    control_items: int = option(
        10, "most items judged with a query of the control arm: the gate sees no order among few"
    )
    control_keep: float = option(0.5, "share of the previous cycle's control arm that stays in it")
    near_threshold: float = option(0.8, "Jaccard similarity of words from which two queries are one; 1: the same words")
    near_rows: int = option(100_000, "queries up to which nearly the same words are looked for, not just the same ones")
    machine_per_minute: int = option(30, "requests for one query within a minute beyond which they are a machine's")
    machine_ids: tuple[str, ...] = option((), "beginnings of request ids of known machines, such as probe-")
    noise: float = option(1.5, "interquartile ranges beyond the third quartile of the distance to the 5th nearest "
                        "query from which a query is noise; 0: none is")  # fmt: skip
    noise_requests: int = option(3, "a query searched this often is never noise")
    known_queries: int = option(5000, "most training queries that coverage starts from, drawn")
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Check the selector, its parameters, and ranges."""
        if self.selector in RETIRED:
            raise UsageError(
                f"selector {self.selector!r} was removed: it did not beat a random choice among the flagged queries",
                todo="use random_flagged, or herding, the default",
            )
        SELECTORS.resolve(self.selector, self.params)
        check_least("select", self, 0, "budget", "control_queries", "near_rows", "noise", "known_queries", "seed")
        check_least("select", self, 1, "machine_per_minute", "noise_requests")
        check_least("select", self, 2, "items_per_query", "control_items")
        if self.depth < self.items_per_query:
            raise UsageError(
                f"[select] depth is {self.depth}, less than items_per_query, which is {self.items_per_query}",
                todo="take the items from at least as many positions",
            )
        for name in ("slice_cap", "flagged_share", "near_threshold"):
            if not 0.0 < (value := getattr(self, name)) <= 1.0:
                raise UsageError(f"[select] {name} is {value}", todo="give a share above 0 and up to 1")
        if not 0.0 <= self.control_keep <= 1.0:
            raise UsageError(f"[select] control_keep is {self.control_keep}", todo="give a share from 0 to 1")
        if not all(self.machine_ids):
            raise UsageError("[select] machine_ids holds an empty text", todo="give beginnings such as probe-")

    def make(self) -> tuple[Selector, bool]:
        """Make the selector.

        :return: it, and whether it may choose what is not flagged.
        """
        make, params = SELECTORS.resolve(self.selector, self.params)
        selector: Selector = make(**params)
        return selector, self.selector == "random" or params.get("over") == "all"
