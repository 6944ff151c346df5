"""Distances to the nearest training texts, and log-odds that an item is of the catalogue's unjudged part."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn

from darl_opensearch.settings import Field
from trainer.ood.base import Chunks, Detector, add_halves, select_columns
from trainer.ood.knn import NearestNeighbours
from trainer.ood.reference import BLOCK, sample
from trainer.ood.registry import DETECTORS

FOLDS = 5
SLOPE_RIDGE = 1e-2  # the slope has no finite optimum if folds are perfectly separable
STEPS = 12  # of Newton's method, which converges in fewer


@DETECTORS.register(
    "catalogue",
    cite="ours; density ratio by a classifier: Bickel et al. 2009, JMLR 10:2137; unlabelled data as background: "
    "Katz-Samuels et al. 2022, arXiv:2202.03299; slope: Platt 1999",
)
class CatalogueDetector(Detector):
    """Nearest-neighbour distances, and the log-odds that the item is of the catalogue's unjudged part.

    At training time the whole catalogue is known, but only a part is judged. A ridge logistic regression separates the
    judged items from the others (half the weight to each side); its log-odds estimate the log density ratio of
    the catalogue to the judged part, so kinds of items that were never judged have high ones, while items that are
    merely unusual in both do not. Their slope is refitted on held-out folds: if judged and unjudged items are alike,
    it is near 0 and the term vanishes. For each half, the distance to the k-th nearest training text is added, in
    standard deviations of the training texts' distances to each other: it covers what no catalogue has, such as
    queries of a new kind or texts of another domain.

    No label is read. Calibration items may be in the catalogue, like the items to come, which keeps the two
    exchangeable. For items added to the catalogue after training, only the neighbour distances tell.

    :param width: features ``h``, of the item half or of both side by side.
    :param halves: number of halves in the features, each of unit length; the last is the item.
    """

    fits_catalogue = True
    adds_halves = True

    def __init__(
        self,
        width: int,
        *,
        halves: int = 1,
        k: Annotated[int, Field("k of the k-th nearest neighbour", least=1, most=1000)] = 1,
        max_reference: Annotated[int, Field("training rows kept per half", least=16, most=65536)] = 4096,
        ridge: Annotated[float, Field("squared-weight penalty of the classifier", least=1e-4, most=1e4)] = 1.0,
    ) -> None:
        super().__init__()
        self.size, self.ridge, self.max_reference = width // halves, ridge, max_reference
        self.near = nn.ModuleList(NearestNeighbours(self.size, k=k, max_reference=max_reference) for _ in range(halves))
        self.register_buffer("centre", torch.zeros(halves))
        self.register_buffer("spread", torch.ones(halves))
        self.register_buffer("weight", torch.zeros(self.size))
        self.register_buffer("bias", torch.zeros(()))
        self.centre: Tensor
        self.spread: Tensor
        self.weight: Tensor
        self.bias: Tensor

    @property
    def sides(self) -> list[NearestNeighbours]:
        """Neighbours of each half, the item's last."""
        return [cast("NearestNeighbours", near) for near in self.near]

    @torch.no_grad()
    def fit(self, chunks: Chunks, catalogue: Chunks = lambda: ()) -> None:
        """Keep the training rows of each half, and fit the classifier of judged items.

        :param chunks: of ``[m, h]`` float, halves of unit length.
        :param catalogue: of ``[m, half]`` float, unjudged items; without any, only the distances count.
        :raises ValueError: if a half has too few distinct rows.
        """
        for side in range(len(self.sides)):
            self.fit_half(side, select_columns(chunks, slice(side * self.size, (side + 1) * self.size)))
        judged = self.sides[-1].reference_0.double()
        unjudged = sample(catalogue, self.max_reference).double()
        if len(judged) < FOLDS or len(unjudged) < FOLDS:
            return
        rows = torch.cat([judged, unjudged])
        is_unjudged = torch.arange(len(rows)) >= len(judged)
        fold = torch.cat([torch.arange(len(part)) % FOLDS for part in (judged, unjudged)])
        log_odds = torch.zeros(len(rows), dtype=torch.float64)
        for number in range(FOLDS):
            weight, bias = fit_logistic(rows[fold != number], is_unjudged[fold != number], self.ridge)
            log_odds[fold == number] = rows[fold == number] @ weight + bias
        slope, _ = fit_logistic(log_odds[:, None], is_unjudged, SLOPE_RIDGE)
        weight, bias = fit_logistic(rows, is_unjudged, self.ridge)
        slope = slope.clamp_min(0.0)  # 0: the classifier does not generalise
        self.weight.copy_(weight * slope)
        self.bias.copy_((bias * slope).squeeze())

    @torch.no_grad()
    def fit_half(self, half: int, chunks: Chunks) -> None:
        """Keep the training rows of a half, and what is usual among their distances."""
        near = self.sides[half]
        near.fit(chunks)
        distances = torch.cat([near(part) for part in near.reference_0.split(BLOCK)])  # each without itself
        self.centre[half], self.spread[half] = distances.mean(), distances.std().clamp_min(1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """Add the standardised distances of the halves and the log-odds of the item, ``[n]`` float of either sign."""
        return self.join(add_halves(self, features.chunk(len(self.sides), dim=1)))

    def of_half(self, half: int, features: Tensor) -> Tensor:
        """Compute the standardised distance of a half, plus the log-odds for the item."""
        near: Tensor = (self.sides[half](features) - self.centre[half]) / self.spread[half]
        return near + features @ self.weight + self.bias if half == len(self.sides) - 1 else near

    def join(self, total: Tensor) -> Tensor:
        """Return the sum itself."""
        return total


def fit_logistic(rows: Tensor, positive: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fit a ridge logistic regression by Newton's method, with half of the weight for each class.

    :param rows: ``[m, w]`` float64.
    :param positive: ``[m]`` bool, with both values.
    :param ridge: penalty on the squared weight, relative to a sum over the rows.
    :return: ``[w]`` weight and ``[]`` intercept, which is not penalised.
    """
    wide = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    share = torch.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum()).double() * len(rows)
    penalty = torch.full((wide.shape[1],), ridge, dtype=torch.float64)
    penalty[-1] = 1e-9
    coefficients = torch.zeros_like(penalty)
    for _ in range(STEPS):
        p = torch.sigmoid(wide @ coefficients)
        gradient = wide.T @ (share * (p - positive.double())) + penalty * coefficients
        curvature = (wide * (share * p * (1 - p))[:, None]).T @ wide + penalty.diag()
        coefficients = coefficients - torch.linalg.solve(curvature, gradient)
    return coefficients[:-1], coefficients[-1]
