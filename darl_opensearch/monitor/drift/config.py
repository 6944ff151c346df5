"""Settings of the drift tests."""

from __future__ import annotations

import re
from datetime import timedelta

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Settings, setting
from darl_opensearch.spans import parse_span

MOST_PERMUTATIONS, MOST_ONE_IN = 100_000, 1000


class DriftConfig(Settings, table="drift"):
    """Table ``[drift]``: when traffic counts as drifted from the calibration sample."""

    window: str = setting(
        "", "time span (12h, 1d, 1w) or number of requests per test window; empty: one window for everything",
        env="DARL_MONITOR_WINDOW", metavar="SPAN|N",
    )  # fmt: skip
    one_in: int = setting(
        100, "windows per false alarm without drift; sets each window's significance level", least=2, most=MOST_ONE_IN,
        env="DARL_MONITOR_ONE_IN",
    )  # fmt: skip
    permutations: int = setting(
        1999, "minimum permutations of the MMD and classifier tests; more if the level requires it", least=99
    )
    folds: int = setting(5, "folds of the classifier test", least=2)
    min_queries: int = setting(30, "minimum queries in window and reference; with fewer there is no test", least=10,
        env="DARL_MONITOR_MIN_QUERIES")  # fmt: skip
    max_queries: int = setting(20_000, "maximum queries per window; a larger window is sampled by query", least=100)
    max_pairs: int = setting(1000, "maximum pairs embedded per window; a larger sample is cut by query", least=100)
    max_slices: int = setting(20, "maximum slices tested per window, largest first", least=0)
    seed: int = setting(0, "seed of the sampling and the permutations", least=0)

    def check(self) -> None:
        """Check the window, and that every fold has queries."""
        if self.min_queries < 2 * self.folds:
            raise UsageError(
                f"[drift] {self.min_queries} queries are too few for {self.folds} folds",
                todo=f"set min_queries to at least {2 * self.folds}",
            )
        parse_window(self.window)


def parse_window(text: str) -> timedelta | int | None:
    """Parse the setting ``window``.

    :param text: a span such as ``1d``, a number of requests such as ``5000``, or empty.
    :return: the span, the number, or None for one window.
    :raises UsageError: if it is none of these.
    """
    if not text:
        return None
    if re.fullmatch(r"[1-9]\d{0,3}[a-z]", text) and (span := parse_span(text)):
        return span
    if re.fullmatch(r"[1-9]\d{0,8}", text):
        return int(text)
    raise UsageError(f"the window {text!r} is neither a span nor a number of requests", todo="use 12h, 1d or 5000")
