"""``[select]``: how much is judged, what counts as noise, who chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.errors import UsageError
from trainer.dasa.registry import Selector
from trainer.dasa.selectors import SELECTORS


def _opt(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Table ``[select]``: what is judged next."""

    selector: str = _opt("herding", "registered selector")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "the selector's parameters"})
    budget: int = _opt(500, "query-item pairs to be judged for training")
    items_per_query: int = _opt(5, "items judged with a query, spread over the model's scores; the top one always")
    depth: int = _opt(20, "first-stage positions, or hits of a search, that they are taken from")
    slice_cap: float = _opt(1.0, "largest share of the budget that one slice may take")
    flagged_share: float = _opt(0.25, "share of a query's items that are OOD from which the query counts as flagged")
    control_queries: int = _opt(100, "queries of the control arm, drawn by traffic before anything is selected")
    control_items: int = _opt(10, "most items judged with a query of the control arm: the gate sees no order among few")
    control_keep: float = _opt(0.5, "share of the previous cycle's control arm that stays in it")
    near_threshold: float = _opt(0.8, "Jaccard similarity of words from which two queries are one; 1: the same words")
    near_rows: int = _opt(100_000, "queries up to which nearly the same words are looked for, not just the same ones")
    machine_per_minute: int = _opt(30, "requests for one query within a minute beyond which they are a machine's")
    machine_ids: tuple[str, ...] = _opt((), "beginnings of request ids of known machines, such as probe-")
    noise: float = _opt(1.5, "interquartile ranges beyond the third quartile of the distance to the 5th nearest "
                        "query from which a query is noise; 0: none is")  # fmt: skip
    noise_requests: int = _opt(3, "a query searched this often is never noise")
    known_queries: int = _opt(5000, "most training queries that coverage starts from, drawn")
    seed: int = _opt(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Check the selector, its parameters, and ranges."""
        SELECTORS.resolve(self.selector, self.params)
        for name, low in (
            ("budget", 0), ("items_per_query", 2), ("control_items", 2), ("control_queries", 0), ("near_rows", 0),
            ("machine_per_minute", 1),
            ("noise", 0), ("noise_requests", 1), ("known_queries", 0), ("seed", 0),
        ):  # fmt: skip
            if not low <= (value := getattr(self, name)) < math.inf:
                raise UsageError(f"[select] {name} is {value}", todo=f"give {low} or more")
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
