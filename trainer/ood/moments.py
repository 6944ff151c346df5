"""Mean and covariance of rows that come in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.ood.base import Chunks, drop_repeats


@dataclass(frozen=True)
class Moments:
    """Moments of ``count`` rows, in float64.

    :param mean: ``[w]``.
    :param covariance: ``[w, w]``, the scatter divided by ``count``.
    :param fourth: mean of the fourth power of a row's distance from the mean.
    """

    count: int
    mean: Tensor
    covariance: Tensor
    fourth: float

    @classmethod
    def of(cls, chunks: Chunks, columns: slice = slice(None)) -> Moments:
        """Go over the rows twice: for the mean, then for what is centred by it.

        :param chunks: of rows, of which each distinct one counts once.
        :param columns: which of the first tensor of a chunk; rows are told apart by these.
        :return: their moments; memory is that of one chunk and of a covariance.
        :raises ValueError: when fewer than two distinct rows are given.
        """
        count, total = 0, torch.zeros(())
        for (rows,) in drop_repeats((chunk[0][:, columns],) for chunk in chunks()):
            count, total = count + len(rows), total + rows.double().sum(0)
        if count < 2:
            raise ValueError("a covariance needs at least two distinct rows")
        mean = total / count
        scatter, fourth = torch.zeros(len(mean), len(mean), dtype=torch.float64), 0.0
        for (rows,) in drop_repeats((chunk[0][:, columns],) for chunk in chunks()):
            centred = rows.double() - mean
            scatter += centred.T @ centred
            fourth += float(centred.square().sum(1).square().sum())
        return cls(count, mean, scatter / count, fourth / count)

    def shrunk(self) -> Tensor:
        """Ledoit-Wolf estimate: the covariance drawn towards a multiple of the identity.

        Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4. With fewer rows than features the covariance
        alone cannot be inverted.
        """
        weight = shrinkage(self.covariance, self.count, self.fourth)
        return shrink(self.covariance, weight, self.covariance.diagonal().mean())

    def whitening(self, power: float = 1.0) -> Tensor:
        """Matrix that brings centred rows to the covariance's axes, each in units of its spread.

        :param power: 1 whitens fully, 0 only turns.
        :return: ``[w, w]`` float64, applied from the right.
        """
        return whitening(self.shrunk(), power)


def shrinkage(covariance: Tensor, count: int, fourth: float) -> float:
    """Weight of the identity in the Ledoit-Wolf estimate.

    :param covariance: ``[w, w]`` float64, a scatter divided by ``count``.
    :param fourth: mean of the fourth power of a row's distance from its centre.
    :return: from 0 to 1.
    """
    aim = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    # The sum of the variances of the covariance's entries; over all of them it is a matter of two scalars.
    noise = (fourth - covariance.square().sum()) / count
    spread = (covariance - aim).square().sum()
    return float((noise / spread.clamp_min(1e-30)).clamp(0.0, 1.0))


def shrink(covariance: Tensor, weight: float, variance: Tensor) -> Tensor:
    """Draw a covariance towards a multiple of the identity.

    :param weight: of the identity, from 0 to 1.
    :param variance: ``[]`` that the identity is multiplied by.
    """
    return (1 - weight) * covariance + weight * variance * torch.eye(len(covariance), dtype=covariance.dtype)


def whitening(covariance: Tensor, power: float = 1.0) -> Tensor:
    """Turn to a covariance's axes and divide by the spread along each.

    :param power: exponent of the inverse covariance's eigenvalues; 0 only turns.
    :return: ``[w, w]``, applied from the right to centred rows.
    """
    values, vectors = torch.linalg.eigh(covariance)
    matrix: Tensor = vectors * values.clamp_min(1e-9).pow(-0.5 * power)
    return matrix
