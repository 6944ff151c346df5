"""Grades or yes and no? Both, pointwise and with a within-query rank term, same backbone and budget.

A yes/no model gets its grades from ``k - 1`` cut-points on its score and its probabilities of grades from an
ordinal fit, both on dev. Run as ``python -m benchmarks.quality.graded``; ``DARL_DATA`` names the folder of real
judgments.
"""

from __future__ import annotations

import dataclasses
import sys

from benchmarks.quality import compare, report
from benchmarks.quality.losses import method

GRADED = [dataclasses.replace(method(grade, rank), name=name) for grade, rank, name in (
    ("cumulative", "pairwise", "graded + rank"), ("cumulative", "", "graded"),
    ("yes_no", "pairwise", "yes/no + rank"), ("yes_no", "", "yes/no"), ("", "pairwise", "rank alone"),
)]  # fmt: skip
YES_NO = tuple(m.name for m in GRADED if m.yes_from)
PLAN = compare.Plan("graded", {"head": GRADED, "full": GRADED}, {"head": 20, "full": 1}, "graded + rank")

if __name__ == "__main__":
    sys.exit(compare.main(PLAN, __doc__, report.render_comparison, None, by_cuts=YES_NO))
