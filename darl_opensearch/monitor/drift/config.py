"""What the drift tests may be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from darl_opensearch.errors import UsageError
from darl_opensearch.fields import check_least, option
from darl_opensearch.spans import parse_span

MOST_PERMUTATIONS, MOST_ONE_IN = 100_000, 1000


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """Table ``[drift]``: when traffic counts as another than the model was calibrated on."""

    window: str = option("", "what is judged at a time: a span (12h, 1d, 1w), a number of requests, or empty for all")
    one_in: int = option(100, "one false alarm in so many windows without drift; sets the level of each")
    permutations: int = option(1999, "least permutations of MMD and classifier test; more where the level needs them")
    folds: int = option(5, "parts that the classifier test is cross-fitted over")
    min_queries: int = option(30, "fewest queries, here and in the reference, that a test is made with")
    max_queries: int = option(20_000, "most queries of a window that are kept; a larger window is sampled by query")
    max_pairs: int = option(1000, "most pairs of a window that are embedded; a larger sample is cut by query")
    max_slices: int = option(20, "most slices of a window that are tested, the largest")
    seed: int = option(0, "of sampling and permutations")

    def __post_init__(self) -> None:
        """Check ranges and the window."""
        check_least("drift", self, 0, "max_slices", "seed")
        check_least("drift", self, 2, "one_in", "folds")
        check_least("drift", self, 10, "min_queries")
        check_least("drift", self, 99, "permutations")
        check_least("drift", self, 100, "max_queries", "max_pairs")
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
