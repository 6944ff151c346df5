"""Exporting ONNX graphs through Optimum, with our own configuration.

The model is traced once; ``model.onnx`` and ``features.onnx`` are extracted from that graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx.utils import Extractor
from torch import Tensor, nn

from darl_opensearch import bundle as files
from darl_opensearch.errors import DarlError
from darl_opensearch.graph_contract import INPUTS, IR_VERSION, OPSET
from trainer.ood.calibration import ood_columns
from trainer.run_folder import Trained

SCORES, FEATURES = "scores", "features"
WHOLE = "whole.onnx"
Axes = dict[str, dict[int, str]]  # names of dynamic axes by tensor and position


class ContractModule(nn.Module):
    """A trained model with head, detector and calibration as one function of three inputs."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.backbone, self.ood, self.detector = trained.model, trained.ood, trained.ood.detector
        calibration = trained.ood.calibration
        # In the shapes of their use, so that constant folding keeps these names: the int8 graph gets its own values.
        self.register_buffer("ood_table", calibration.distances[None, :].clone())
        self.register_buffer("ood_median", calibration.median.reshape(1).clone())
        self.register_buffer("ood_spread", calibration.spread.reshape(1).clone())
        self.ood_table: Tensor
        self.ood_median: Tensor
        self.ood_spread: Tensor

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        """Score pair sequences.

        :param input_ids: ``[n, s]`` int64.
        :param attention_mask: ``[n, s]`` int64.
        :param token_type_ids: ``[n, s]`` int64.
        :return: ``scores`` ``[n, 3 + k]`` and ``features`` ``[n, halves × h]``, float32.
        """
        features = self.backbone.forward_features(input_ids, attention_mask, token_type_ids, layers=self.ood.layers)
        head = self.backbone.head
        raw = head(features.head_input)
        distance = self.ood.distance(features, head, raw)
        ood = ood_columns(distance, self.ood_table, self.ood_median, self.ood_spread)
        scores = torch.cat([head.score(raw)[:, None], head.grade_probs(raw), ood], dim=1)
        return {SCORES: scores, FEATURES: torch.cat(features.halves, dim=1)}


def export_graphs(module: ContractModule, folder: Path, work: Path) -> None:
    """Write ``model.onnx`` and ``features.onnx``, and weights too large for one file to a file that both share.

    :raises DarlError: if the trace lacks an output.
    """
    module.eval()
    axes = {name: {0: "batch", 1: "seq"} for name in INPUTS}
    with module.backbone.exporting():
        outputs = {SCORES: {0: "batch"}, FEATURES: {0: "batch"}}
        trace(module, module.backbone.encoder.config, axes, outputs, work / WHOLE)
    separate = _separate_weights(work / WHOLE, folder)
    whole = onnx.load(work / WHOLE, load_external_data=not separate)
    traced = {graph_input.name for graph_input in whole.graph.input}
    for name in INPUTS:  # the exporter drops unused inputs, but ML Commons always feeds all three
        if name not in traced:
            whole.graph.input.append(onnx.helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"]))
    names = {output.name for output in whole.graph.output}
    if names != {SCORES, FEATURES}:
        raise DarlError(f"the exported graph has outputs {sorted(names)}", todo="report this: export is broken")
    for output, name in ((SCORES, "model.onnx"), (FEATURES, "features.onnx")):
        graph = Extractor(whole).extract_model(list(INPUTS), [output])
        graph.ir_version = IR_VERSION
        onnx.save(graph, folder / name)
        onnx.checker.check_model(folder / name)
    (work / WHOLE).unlink()


def trace(
    module: nn.Module, config: Any, inputs: Axes, outputs: Axes, path: Path, example: Mapping[str, Tensor] | None = None
) -> None:
    """Export a module with Optimum.

    :param config: of its transformers model.
    :param inputs: axes of each input, in the order of ``forward``.
    :param outputs: axes of each output, in order.
    :param example: inputs to trace with; by default Optimum's dummy token sequences.
    """
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import BertOnnxConfig

    class GraphConfig(BertOnnxConfig):  # type: ignore[misc]
        """Our inputs and outputs."""

        @property
        def inputs(self) -> Axes:
            return inputs

        @property
        def outputs(self) -> Axes:
            return outputs

        def generate_dummy_inputs(self, framework: str = "pt", **shapes: Any) -> dict[str, Any]:
            if example is None:
                return dict(super().generate_dummy_inputs(framework=framework, **shapes))
            return dict(example)

        def generate_dummy_inputs_for_validation(
            self, reference_model_inputs: dict[str, Any], onnx_input_names: list[str]
        ) -> dict[str, Any]:
            # The exporter has dropped unused inputs.
            return {name: value for name, value in reference_model_inputs.items() if name in onnx_input_names}

    module.config = config  # Optimum reads it
    with quiet_trace():
        export(module, GraphConfig(config, task="feature-extraction"), path, opset=OPSET)


def _separate_weights(whole: Path, folder: Path) -> bool:
    """Move the weights of a graph to ``model.onnx_data`` if it is too large; return whether it was."""
    model = onnx.load(whole, load_external_data=False)
    if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
        if whole.stat().st_size <= files.MAX_ONE_FILE:
            return False
        onnx.save(model, whole, save_as_external_data=True, location=f"{whole.name}_data")
        model = onnx.load(whole, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:  # the exporter also moves small constants of nodes: move them back
            if uses_external_data(attribute.t):
                load_external_data_for_tensor(attribute.t, str(whole.parent))
                attribute.t.data_location = TensorProto.DEFAULT
                del attribute.t.external_data[:]
    # The exporter named the file after the whole graph, but both extracted graphs will read it.
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = files.MODEL_DATA
    whole.with_name(f"{whole.name}_data").rename(folder / files.MODEL_DATA)
    whole.write_bytes(model.SerializeToString())
    return True


@contextmanager
def quiet_trace() -> Iterator[None]:
    """Silence tracer and exporter; their errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("optimum", "torch.onnx", "optimum.exporters")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def set_initialisers(path: Path, values: dict[str, Any]) -> None:
    """Replace constants of a graph, in place.

    :param values: arrays by name.
    :raises DarlError: if the graph lacks one.
    """
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in values.items():
        if name not in constants:
            raise DarlError(
                f"the graph has no constant {name!r}", where=str(path), todo="report this: export is broken"
            )
        constants[name].CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, path)
