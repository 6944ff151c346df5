"""OOD detectors, fitted on training features, and their conformal calibration."""

from trainer.ood.registry import CATALOGUE, DETECTORS, FEATURES, halves, needs_catalogue, reads, view  # isort: skip
from trainer.ood import catalogue, energy, knn, mahalanobis, relative, softmax, vim
from trainer.ood.calibration import ConformalCalibration

__all__ = [
    "CATALOGUE", "DETECTORS", "FEATURES", "ConformalCalibration", "catalogue", "energy", "halves", "knn",
    "mahalanobis", "needs_catalogue", "reads", "relative", "softmax", "view", "vim",
]  # fmt: skip
