"""What the drift tests may be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.spans import parse_span

MOST_PERMUTATIONS, MOST_ONE_IN = 100_000, 1000


def _opt(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """Table ``[drift]``: when traffic counts as another than the model was calibrated on."""

    window: str = _opt("", "what is judged at a time: a span (12h, 1d, 1w), a number of requests, or empty for all")
    one_in: int = _opt(100, "one false alarm in so many windows without drift; sets the level of each")
    permutations: int = _opt(1999, "least permutations of MMD and classifier test; more where the level needs them")
    folds: int = _opt(5, "parts that the classifier test is cross-fitted over")
    min_queries: int = _opt(30, "fewest queries, here and in the reference, that a test is made with")
    max_queries: int = _opt(20_000, "most queries of a window that are kept; a larger window is sampled by query")
    max_pairs: int = _opt(1000, "most pairs of a window that are embedded; a larger sample is cut by query")
    max_slices: int = _opt(20, "most slices of a window that are tested, the largest")
    seed: int = _opt(0, "of sampling and permutations")

    def __post_init__(self) -> None:
        """Check ranges and the window."""
        for name, low in (("one_in", 2), ("permutations", 99), ("folds", 2), ("min_queries", 10),
                          ("max_queries", 100), ("max_pairs", 100), ("max_slices", 0), ("seed", 0)):  # fmt: skip
            if getattr(self, name) < low:
                raise UsageError(f"[drift] {name} is {getattr(self, name)}", todo=f"give {low} or more")
        if self.one_in > MOST_ONE_IN:
            raise UsageError(
                f"[drift] one_in is {self.one_in}",
                todo=f"give at most {MOST_ONE_IN}: finer levels need more permutations than are made",
            )
        if self.min_queries < 2 * self.folds:
            raise UsageError(
                f"[drift] {self.min_queries} queries are too few for {self.folds} folds",
                todo=f"give min_queries of at least {2 * self.folds}",
            )
        parse_window(self.window)

    @property
    def level(self) -> float:
        """Chance of a false alarm that each window may have."""
        return 1 / self.one_in


def parse_window(text: str) -> timedelta | int | None:
    """Read how the log is cut into windows.

    :param text: a span such as ``1d``, a number of requests such as ``5000``, or empty.
    :return: the span, the number, or None for one window.
    :raises UsageError: when it is neither.
    """
    if not text:
        return None
    if re.fullmatch(r"[1-9]\d{0,3}[a-z]", text) and (span := parse_span(text)):
        return span
    if re.fullmatch(r"[1-9]\d{0,8}", text):
        return int(text)
    raise UsageError(f"the window {text!r} is neither a span nor a number of requests", todo="give 12h, 1d or 5000")
