"""OOD detectors, fitted on training features, and their conformal calibration."""

from trainer.ood.registry import DETECTORS, FEATURES, halves, view  # isort: skip
from trainer.ood import knn, mahalanobis
from trainer.ood.calibration import ConformalCalibration

__all__ = ["DETECTORS", "FEATURES", "ConformalCalibration", "halves", "knn", "mahalanobis", "view"]
