"""Which loss? Every registered one, head alone and encoder with it, on every setting.

Run as ``python -m benchmarks.quality.losses``; ``DARL_DATA`` names the folder of real judgments.
"""

from __future__ import annotations

import sys

from benchmarks.quality import compare, report
from benchmarks.quality.methods import Method
from trainer.config import Loss
from trainer.losses import GRADE_LOSSES, RANK_LOSSES

DEFAULT = Loss()
# LambdaLoss is a sum over the pairs of a list and about twenty times the size of the others: the same pull for all.
RANK_WEIGHT = {"lambda": DEFAULT.rank_weight / 20}
AGAINST = f"{DEFAULT.grade} + {DEFAULT.rank}"


def method(grade: str = "", rank: str = "") -> Method:
    """One sum of losses, weighted as by default.

    :param grade: registered grade loss; empty: none.
    :param rank: registered rank loss; empty: none.
    :return: the method.
    """
    loss = Loss(
        grade=grade or DEFAULT.grade, grade_weight=DEFAULT.grade_weight if grade else 0.0,
        rank=rank or DEFAULT.rank, rank_weight=RANK_WEIGHT.get(rank, DEFAULT.rank_weight) if rank else 0.0,
    )  # fmt: skip
    return Method(" + ".join(name for name in (grade, rank) if name), loss, yes_from=2 if grade == "yes_no" else 0)


COSINE = Method("cosine")
SUMS = [method(grade, DEFAULT.rank) for grade in GRADE_LOSSES]
SUMS += [method(DEFAULT.grade, rank) for rank in RANK_LOSSES if rank != DEFAULT.rank]
ALONE = [*(method(grade) for grade in GRADE_LOSSES), *(method(rank=rank) for rank in RANK_LOSSES)]
PLAN = compare.Plan("losses", {"head": [COSINE, *SUMS, *ALONE], "full": SUMS}, {"head": 20, "full": 1}, AGAINST)

if __name__ == "__main__":
    sys.exit(compare.main(PLAN, __doc__, report.render_comparison, None))
