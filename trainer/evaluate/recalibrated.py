"""RPS of a system after its grades are calibrated again: what calibration alone changes is no gain of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from darl_opensearch.stats.bootstrap import Floats
from trainer.evaluate.grading import Grading
from trainer.models.heads.cumulative import CumulativeHead
from trainer.stages.calibrated import measure_calibrated
from trainer.training_data.pairs import Pairs


def recalibrated_rps(grading: Grading, gains: Sequence[float]) -> Floats:
    """Measure the ranked probability score with grades calibrated on other queries of the same part.

    Proportional odds of the normal scores of the expected gain, in five folds of queries: only the order of all pairs
    counts, across queries, too. So a bundle whose grades are calibrated otherwise has the same figures, however certain
    it is.

    :param gains: of the grades.
    :return: ``[q]``; nan for a query without pairs.
    """
    _, place, count = np.unique(grading.grade_probs @ np.asarray(gains), return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - count / 2)[place] / len(place)  # equal scores have the rank in their middle
    evidence = torch.special.ndtri(torch.from_numpy(middle))[:, None].float()
    index = torch.from_numpy(np.stack([grading.query_index, np.zeros_like(grading.query_index)], axis=1))
    pairs = Pairs(("",) * grading.n_queries, (), index, torch.from_numpy(grading.grades))
    found = measure_calibrated(CumulativeHead(1, tuple(gains)), pairs, evidence, gains, cutoff=1)
    return np.array([found.rps.get(query, np.nan) for query in range(grading.n_queries)])
