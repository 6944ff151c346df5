"""OOD detectors fitted on training features, and their conformal calibration."""

from trainer.ood.registry import DETECTORS, FEATURES, count_halves, select_features  # isort: skip
from trainer.ood import catalogue, energy, knn, mahalanobis, relative, softmax, vim
from trainer.ood.calibration import ConformalCalibration

__all__ = [
    "DETECTORS", "FEATURES", "ConformalCalibration", "catalogue", "energy", "count_halves", "knn",
    "mahalanobis", "relative", "softmax", "select_features", "vim",
]  # fmt: skip
