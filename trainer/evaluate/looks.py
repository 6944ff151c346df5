"""Looks at a control arm that is judged in shares: the level of each, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.stats.paired import Z_BOUND, Z_HALVED
from darl_opensearch.stats.sequential import NORMAL, find_boundaries, find_chance

LEVEL = 0.05  # of a gate, two-sided: a false gain has half of it
MOST_LOOKS = 4
FUTILE = 0.05  # chance of a yes below which a look stops; docs/decisions/0025 compares others
YES, NO, STOPPED, CONTINUED = "yes", "no", "futile", "continue"  # what a look decides


@dataclass(frozen=True)
class Look:
    """One look at the control arm; by default the only one, at all of it.

    :param number: from 1 on.
    :param count: of all looks.
    :param seen: queries of the arm that judges have been asked about.
    :param planned: queries of the whole arm.
    :param levels: two-sided level of a single test at this look, and of each of two tests that share it.
    :param last: the same at the last look.
    """

    number: int = 1
    count: int = 1
    seen: int = 0
    planned: int = 0
    levels: tuple[float, float] = (LEVEL, LEVEL / 2)
    last: tuple[float, float] = (LEVEL, LEVEL / 2)

    @property
    def is_last(self) -> bool:
        """Whether the whole arm is seen."""
        return self.number == self.count

    def quantile(self, tests: int) -> float:
        """Return the normal quantile of the last look, for tests that share the level."""
        if self.count == 1:
            return Z_HALVED if tests > 1 else Z_BOUND
        return NORMAL.inv_cdf(1 - self.last[tests > 1] / 2)

    def find_chance(self, mean: float, sd: float, n: int, tests: int) -> float:
        """Estimate the chance that the last look will show a mean to be above 0; 1 if too few queries tell.

        :param sd: standard deviation over queries.
        :param tests: that share the level.
        """
        if n < 2 or math.isnan(sd):
            return 1.0
        statistic = mean * math.sqrt(n) / sd if sd else math.copysign(math.inf, mean if mean else -1.0)
        return find_chance(statistic, self.seen / self.planned, self.quantile(tests))

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "look": self.number, "of": self.count, "queries": self.seen, "planned": self.planned,
            "level": self.levels[0], "shared_level": self.levels[1],
        }  # fmt: skip


def plan_looks(planned: int, count: int) -> tuple[Look, ...]:
    """Plan looks at equal shares of the control arm.

    :param planned: queries of the whole arm; with fewer than looks, each query is one.
    """
    seen = sorted({math.ceil(planned * number / count) for number in range(1, count + 1)})
    if len(seen) < 2:
        return (Look(seen=planned, planned=planned),)
    shares = [queries / planned for queries in seen]
    of_one, of_two = (
        [2 - 2 * NORMAL.cdf(z) for z in find_boundaries(shares, level / 2)] for level in (LEVEL, LEVEL / 2)
    )
    levels = list(zip(of_one, of_two, strict=True))
    return tuple(
        Look(number, len(seen), queries, planned, levels[number - 1], levels[-1])
        for number, queries in enumerate(seen, 1)
    )


def describe_last(looks: Sequence[Mapping[str, Any]]) -> str:
    """Say at which look a gate decided, and how many queries that spared; empty for a single look.

    :param looks: of a gate's report.
    """
    if not looks:
        return ""
    last = looks[-1]
    spared = last["planned"] - last["queries"]
    left = f"{spared:,} of {last['planned']:,} control queries were not judged" if spared else "no label was spared"
    why = "" if last["decision"] != STOPPED else f", since the chance of a yes was {100 * last['chance']:.0f} %"
    return f"decided at look {last['look']} of {last['of']}: {left}{why}"
