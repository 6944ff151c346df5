"""pytorch-ood's detectors on features that were written for it; runs in the environment of requirements/peers.txt.

Called by ``benchmarks.ood.detectors --peers PYTHON``; reads one ``.npz`` and writes another, and imports nothing of
the project.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import torch
from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, MaxSoftmax, ViM


def distances(given: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Fit each on the same rows and apply it to the same rows.

    :param given: ``fit`` and ``test`` features of items, ``groups`` of the fit rows, ``head_fit`` and ``head_test``
        what the head reads, ``weight`` and ``bias`` of the head.
    :return: ``[n]`` for each detector.
    """
    one = torch.zeros(len(given["fit"]), dtype=torch.long)
    logits = given["head_test"] @ given["weight"].T + given["bias"]
    fitted = {
        "mahalanobis": Mahalanobis(None).fit_features(given["fit"], one),
        "relative_mahalanobis": RMD(None).fit_features(given["fit"], given["groups"].long()),
        "knn 1": KNN(None, k=1).fit_features(given["fit"], one),
        "knn 5": KNN(None, k=5).fit_features(given["fit"], one),
    }
    found = {name: detector.predict_features(given["test"]) for name, detector in fitted.items()}
    vim = ViM(None, d=given["head_fit"].shape[1] // 2, w=given["weight"], b=given["bias"])
    vim.fit_features(given["head_fit"], torch.zeros(len(given["head_fit"]), dtype=torch.long))
    found["vim"] = vim.predict_features(given["head_test"])
    found["energy"] = EnergyBased.score(logits)
    found["max_softmax"] = MaxSoftmax.score(logits)
    return {name: values.double().numpy() for name, values in found.items()}


def main() -> None:
    """Read, fit, write."""
    with np.load(sys.argv[1]) as stored:
        given = {name: torch.from_numpy(stored[name]).float() for name in stored.files}
    found = cast("dict[str, Any]", distances(given))
    np.savez(sys.argv[2], version=version("pytorch-ood"), **found)


if __name__ == "__main__":
    main()
