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
    :param fourth: mean fourth power of the rows' distances from the mean.
    """

    count: int
    mean: Tensor
    covariance: Tensor
    fourth: float

    @classmethod
    def of(cls, chunks: Chunks) -> Moments:
        """Compute moments in two passes, in the memory of one chunk and of a covariance.

        :param chunks: of rows; repeated rows count once.
        :raises ValueError: if there are fewer than two distinct rows.
        """
        count, total = 0, torch.zeros(())
        for (rows,) in drop_repeats((chunk[0],) for chunk in chunks()):
            count, total = count + len(rows), total + rows.double().sum(0)
        if count < 2:
            raise ValueError("a covariance needs at least two distinct rows")
        mean = total / count
        scatter, fourth = torch.zeros(len(mean), len(mean), dtype=torch.float64), 0.0
        for (rows,) in drop_repeats((chunk[0],) for chunk in chunks()):
            centred = rows.double() - mean
            scatter += centred.T @ centred
            fourth += float(centred.square().sum(1).square().sum())
        return cls(count, mean, scatter / count, fourth / count)

    def shrunk(self) -> Tensor:
        """Compute the Ledoit-Wolf estimate: the covariance shrunk towards a multiple of the identity.

        Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4. With fewer rows than features the covariance itself
        cannot be inverted.
        """
        weight = shrinkage(self.covariance, self.count, self.fourth)
        return shrink(self.covariance, weight, self.covariance.diagonal().mean())

    def whitening(self, power: float = 1.0) -> Tensor:
        """Compute the whitening matrix of the shrunk covariance, see :func:`whitening`."""
        return whitening(self.shrunk(), power)


def shrinkage(covariance: Tensor, count: int, fourth: float) -> float:
    """Compute the weight of the identity in the Ledoit-Wolf estimate, from 0 to 1.

    :param covariance: ``[w, w]`` float64, a scatter divided by ``count``.
    :param fourth: mean fourth power of the rows' distances from their centre.
    """
    target = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    # The summed variances of the covariance's entries, which two scalars determine.
    noise = (fourth - covariance.square().sum()) / count
    spread = (covariance - target).square().sum()
    return float((noise / spread.clamp_min(1e-30)).clamp(0.0, 1.0))


def shrink(covariance: Tensor, weight: float, variance: Tensor) -> Tensor:
    """Shrink a covariance towards a multiple of the identity.

    :param weight: weight of the identity, from 0 to 1.
    :param variance: ``[]`` factor of the identity.
    """
    return (1 - weight) * covariance + weight * variance * torch.eye(len(covariance), dtype=covariance.dtype)


def whitening(covariance: Tensor, power: float = 1.0) -> Tensor:
    """Compute the matrix that rotates centred rows to a covariance's axes and divides by the spread along each.

    :param power: 1 whitens fully, 0 only rotates.
    :return: ``[w, w]``, applied from the right to centred rows.
    """
    values, vectors = torch.linalg.eigh(covariance)
    matrix: Tensor = vectors * values.clamp_min(1e-9).pow(-0.5 * power)
    return matrix
