"""The int8 graph: quantised matrix products in the encoder, head and detector in fp32, and its own calibration.

ONNX Runtime's dynamic int8 uses one activation scale per batch, so a score would depend on the other pairs of its
batch: the scorer runs this graph on one pair per pass.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.graph_contract import IR_VERSION
from trainer.export.graph import set_initialisers
from trainer.ood import ConformalCalibration


def quantise(source: Path, target: Path) -> None:
    """Quantise the encoder's matrix products with constant weights.

    Weights are signed, per channel, in seven bits: CPUs without VNNI add two products of eight bits in sixteen, with
    saturation, so scores and the calibration would depend on the CPU.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and "/encoder/" in node.name and node.input[1] in constants
    ]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends pre-processing that has no effect here
    try:
        quantize_dynamic(
            source, target, nodes_to_quantize=products, op_types_to_quantize=["MatMul"], per_channel=True,
            reduce_range=True, weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        root.setLevel(level)
    quantised = onnx.load(target)
    quantised.ir_version = IR_VERSION
    onnx.save(quantised, target)


def refit_calibration(graph: Path, scaled: NDArray[np.float32], old: ConformalCalibration, alpha: float) -> Tensor:
    """Calibrate an int8 graph on its own distances.

    :param graph: the int8 graph, changed in place.
    :param scaled: ``[n]`` its ``ood_distance`` of the calibration pairs, by its present calibration.
    :param old: that calibration.
    :return: ``[n]`` its raw distances of the calibration pairs.
    """
    distances = torch.from_numpy(scaled.astype(np.float64)) * float(old.spread) + float(old.median)
    distances = distances.float()
    new = ConformalCalibration.fit(distances, alpha)
    values = {"ood_table": new.distances[None, :], "ood_median": new.median[None], "ood_spread": new.spread[None]}
    set_initialisers(graph, {name: value.numpy() for name, value in values.items()})
    return distances
