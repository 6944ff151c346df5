"""The ONNX graphs, through Optimum with a configuration of our own.

One trace gives both graphs: ``scores`` and ``features`` are cut out of it afterwards.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor, nn

from darl_opensearch.errors import DarlError
from darl_opensearch.graph_contract import INPUTS, IR_VERSION, OPSET
from trainer.ood import view
from trainer.ood.calibration import ood_columns
from trainer.stages.plan import Trained

SCORES, FEATURES = "scores", "features"


class ContractModule(nn.Module):
    """The whole of a trained model as one function of three inputs.

    :param trained: a finished run.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.backbone, self.detector, self.space = trained.model, trained.ood.detector, trained.ood.space
        self.config = trained.model.encoder.config  # Optimum reads it
        calibration = trained.ood.calibration
        # As used, so that no folding renames them: the int8 graph gets its own values by these names.
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
        :return: ``scores`` ``[n, 3 + k]`` and ``features`` ``[n, 2h]``, float32.
        """
        features = self.backbone.forward_features(input_ids, attention_mask, token_type_ids)
        head = self.backbone.head
        raw = head(features.similarity)
        distance = self.detector(view(features, self.space))
        ood = ood_columns(distance, self.ood_table, self.ood_median, self.ood_spread)
        scores = torch.cat([head.score(raw)[:, None], head.grade_probs(raw), ood], dim=1)
        return {SCORES: scores, FEATURES: torch.cat(features.halves, dim=1)}


def export_graphs(module: ContractModule, folder: Path, work: Path) -> None:
    """Write ``model.onnx`` and ``features.onnx``.

    :param module: the model.
    :param folder: where the graphs go.
    :param work: a scratch folder.
    :raises DarlError: when the trace lacks an output.
    """
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import BertOnnxConfig

    class SplitOnnxConfig(BertOnnxConfig):  # type: ignore[misc]
        """Three int64 inputs, two float outputs."""

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "batch", 1: "seq"} for name in INPUTS}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {SCORES: {0: "batch"}, FEATURES: {0: "batch"}}

    module.eval()
    with quiet_trace():
        export(module, SplitOnnxConfig(module.config, task="feature-extraction"), work / "whole.onnx", opset=OPSET)
    whole = onnx.load(work / "whole.onnx")
    names = {output.name for output in whole.graph.output}
    if names != {SCORES, FEATURES}:
        raise DarlError(f"the exported graph has outputs {sorted(names)}", todo="report this: export is broken")
    for output, name in ((SCORES, "model.onnx"), (FEATURES, "features.onnx")):
        # token_type_ids and the rest stay declared in this order whatever the graph reads of them.
        part = Extractor(whole).extract_model(list(INPUTS), [output])
        part.ir_version = IR_VERSION
        onnx.checker.check_model(part)
        onnx.save(part, folder / name)


@contextmanager
def quiet_trace() -> Iterator[None]:
    """Keep tracer and exporter chatter off the terminal; errors come as exceptions."""
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
    """Replace constants of a graph by name.

    :param path: the graph, changed in place.
    :param values: arrays by initialiser name.
    :raises DarlError: when one is not there.
    """
    from onnx import numpy_helper

    model = onnx.load(path)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in values.items():
        if name not in found:
            raise DarlError(
                f"the graph has no constant {name!r}", where=str(path), todo="report this: export is broken"
            )
        found[name].CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, path)
