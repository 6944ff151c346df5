"""Grades or yes and no? Both, pointwise and with a within-query rank term, same backbone and budget.

A yes/no model gets its grades from ``k - 1`` cut-points on its score and its probabilities of grades from an
ordinal fit, both on dev. Cut-points are chosen for kappa, which the likeliest grade is not: so the graded models are
measured with cut-points as well. Run as ``python -m benchmarks.quality.graded``; ``DARL_DATA`` names the folder of real
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
CUT = [dataclasses.replace(m, name=f"{m.name}, by cut-points") for m in GRADED if m.name not in YES_NO]
BY_CUTS = (*YES_NO, *(m.name for m in CUT))
PLAN = compare.Plan("graded", {"head": [*GRADED, *CUT], "full": [*GRADED, *CUT]}, {"head": 20, "full": 1}, CUT[0].name)

if __name__ == "__main__":
    sys.exit(compare.main(PLAN, __doc__, report.render_comparison, None, by_cuts=BY_CUTS))
