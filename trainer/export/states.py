"""The graphs for item states.

``encode.onnx`` encodes a query or an item; ``ood/sides.onnx`` computes its part of the OOD distance, for a detector
that adds parts; ``meet.onnx`` scores a query with items in eight bits, with the output of ``model.onnx``.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.graph_contract import IR_VERSION
from darl_opensearch.io.digest import digest_data, digest_json
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import ZERO, StateStore
from trainer.export.dev_pairs import DevPairs
from trainer.export.graph import ContractModule, trace
from trainer.export.int8 import quantise, refit_calibration
from trainer.models.base import AVERAGE, PairFeatures
from trainer.models.split import SplitReranker, to_units
from trainer.ood.calibration import ood_columns

_AXES = {
    "input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"},
    "states": {0: "batch", 1: "seq"}, "pooled": {0: "batch"},
    "query_tokens": {1: "query"}, "query_scales": {0: "query"}, "query_ids": {0: "query"},
    "query_pooled": {}, "query_ood": {},
    "item_tokens": {0: "items", 1: "seq"}, "item_scales": {0: "items", 1: "seq"},
    "item_mask": {0: "items", 1: "seq"}, "item_content": {0: "items", 1: "seq"},
    "item_pooled": {0: "items"}, "item_ood": {0: "items"}, "scores": {0: "items"}, "sides": {0: "batch"},
}  # fmt: skip

SCORE_BOUND, NDCG_BOUND, OOD_BOUND = 0.005, 0.002, 0.01  # of fp32 states against model.onnx, on the dev pairs


def add_states(
    module: ContractModule, card: Card, work: Path, dev: DevPairs, calibration: Sequence[tuple[str, str]]
) -> Card:
    """Write the graphs unless they differ too much from ``model.onnx``.

    :param work: folder of the graphs, with ``model.onnx`` and the tokenizer.
    :param calibration: pairs to calibrate quantised graphs on; empty: no quantised graphs.
    :return: the card with the measurements.
    """
    backbone, graphs = module.backbone, dict(card.graphs)
    export_states(module, work)
    card = dataclasses.replace(card, states={"encoder": digest_encoder(backbone)})
    graphs[files.MEET] = dev.compare(score_by_states(card, work, dev.texts), "states")
    if reason := _refusal(graphs[files.MEET], dev):
        for name in (files.ENCODE, files.MEET, files.OOD_SIDES):
            (work / name).unlink(missing_ok=True)
        graphs[files.MEET]["left_out"] = reason
        return dataclasses.replace(card, graphs=graphs, states={})
    if calibration and backbone.quantises:
        quantise(work / files.ENCODE, work / files.ENCODE_INT8)
        shutil.copyfile(work / files.MEET, work / files.MEET_INT8)
        scaled = score_by_states(card, work, calibration, int8=True)[:, dev.columns.ood_distance]
        refit_calibration(work / files.MEET_INT8, scaled, module.ood.calibration, dev.alpha)
        graphs[files.MEET_INT8] = dev.compare(score_by_states(card, work, dev.texts, int8=True), "states_int8")
    return dataclasses.replace(card, graphs=graphs)


def score_by_states(
    card: Card, work: Path, pairs: Sequence[tuple[str, str]], *, int8: bool = False
) -> NDArray[np.float32]:
    """Score pairs from item states.

    :return: ``[n, 3 + k]``.
    """
    digests = {path.relative_to(work).as_posix(): "" for path in work.rglob("*") if path.is_file()}
    rows = np.empty((len(pairs), card.columns.width), dtype=np.float32)
    places: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(place)
    with StateStore(None) as store, Scorer.open(Bundle(work, card, digests), int8=int8, states=store) as scorer:
        for query, query_places in places.items():
            rows[query_places] = scorer.score(query, [pairs[place][1] for place in query_places]).data
    return rows


def _refusal(report: Mapping[str, Any], dev: DevPairs) -> str:
    """Return why the graphs must not be used, or ``""``."""
    ndcg = report[f"dev_ndcg@{dev.cutoff}"]
    differences = {
        "a score": (report["score_difference"]["max"], SCORE_BOUND),
        "nDCG": (abs(ndcg["fp32"] - ndcg["states"]), NDCG_BOUND),
        "the share of OOD decisions": (1 - report["ood_agreement"], OOD_BOUND),
    }
    return "; ".join(
        f"{figure} differs by {value:.4f}, bound {bound}"
        for figure, (value, bound) in differences.items()
        if value > bound
    )


class EncodeModule(nn.Module):
    """Encodes a query or an item: token states of unit length, and the pooled vectors for head and detector."""

    def __init__(self, module: ContractModule) -> None:
        super().__init__()
        self.backbone, self.layers = module.backbone, module.ood.layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts.

        :param input_ids: ``[n, s]`` int64.
        :param attention_mask: ``[n, s]`` int64.
        :return: ``[n, s, h]`` states, and ``[n, v, h]`` pooled vectors: of the last layer, then of the averaged layers
            if the detector reads them.
        """
        positions = torch.cumsum(torch.ones_like(input_ids), dim=1) - 1
        attention = attention_mask[:, None, :] * torch.ones_like(attention_mask)[:, :, None]
        states, mean = self.backbone.encode(input_ids, attention_mask, positions, attention, self.layers)
        mask = attention_mask.to(states)
        pooled = [self.backbone.pool(part, mask, positions) for part in (states, mean) if part is not None]
        return to_units(states), torch.stack(pooled, dim=1)


class SidesModule(nn.Module):
    """Computes the part of the OOD distance of a text, as query and as item."""

    def __init__(self, module: ContractModule) -> None:
        super().__init__()
        self.ood, self.detector = module.ood, module.detector

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute both parts.

        :param pooled: ``[n, v, h]`` from :class:`EncodeModule`.
        :return: ``[n, 2]``.
        """
        return self.ood.of_sides(pooled[:, -1])


class IntegerProduct(torch.autograd.Function):
    """Integer matrix product: exact, and in eight bits three times as fast on a CPU as in float."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, query: Tensor) -> Tensor:
        """Multiply.

        :param items: ``[n, b, h]`` uint8, with an offset of 128.
        :param query: ``[h, a]`` int8.
        :return: ``[n, b, a]`` int32.
        """
        return torch.matmul(items.int() - ZERO, query.int())

    @staticmethod
    def symbolic(g: Any, items: Any, query: Any) -> Any:
        """Emit the ONNX operator, which the exporter does not derive."""
        zero = g.op("Constant", value_t=torch.tensor(ZERO, dtype=torch.uint8))
        return g.op("MatMulInteger", items, query, zero)


class MeetModule(nn.Module):
    """Scores an encoded query with encoded items; has the columns of ``model.onnx``."""

    def __init__(self, module: ContractModule) -> None:
        super().__init__()
        self.backbone, self.ood, self.detector = module.backbone, module.ood, module.detector
        for name in ("ood_table", "ood_median", "ood_spread"):
            self.register_buffer(name, getattr(module, name).clone())
        self.ood_table: Tensor
        self.ood_median: Tensor
        self.ood_spread: Tensor

    def forward(
        self, query_tokens: Tensor, query_scales: Tensor, query_ids: Tensor, query_pooled: Tensor, query_ood: Tensor,
        item_tokens: Tensor, item_scales: Tensor, item_mask: Tensor, item_content: Tensor, item_pooled: Tensor,
        item_ood: Tensor,
    ) -> Tensor:  # fmt: skip
        """Score items for a query.

        :param query_tokens: ``[h, a]`` int8 token states, each divided by its scale.
        :param query_scales: ``[a]`` float.
        :param query_ids: ``[a]`` int64.
        :param query_pooled: ``[v, h]`` float.
        :param query_ood: ``[1]`` float; like ``item_ood`` used only if the detector adds parts.
        :param item_tokens: ``[n, b, h]`` uint8 token states, each divided by its scale, with an offset of 128.
        :param item_scales: ``[n, b]`` float, of the tokens.
        :param item_mask: ``[n, b]`` float, 0 for padding.
        :param item_content: ``[n, b]`` float, 0 for padding and special tokens.
        :param item_pooled: ``[n, v, h]`` float.
        :param item_ood: ``[n]`` float.
        :return: ``[n, 3 + k]``.
        """
        backbone, ood, head = self.backbone, self.ood, self.backbone.head
        weight = backbone.weigh(query_ids[None], torch.ones_like(query_scales[None]))
        products = IntegerProduct.apply(item_tokens, query_tokens).to(query_scales)
        sims = products * item_scales[:, :, None] * query_scales[None, None, :]
        query, item = query_pooled[None].expand_as(item_pooled), item_pooled
        cosine = torch.matmul(item[:, 0], query_pooled[0])
        head_input = backbone.pool_similarities(cosine, sims.transpose(1, 2), weight, item_mask, item_content)
        raw = head(head_input)
        if self.detector.adds_halves:
            distance = self.detector.join(query_ood + item_ood)
        else:
            averaged = (query[:, -1], item[:, -1]) if ood.layers == AVERAGE else ()
            distance = ood.distance(PairFeatures(head_input, (query[:, 0], item[:, 0]), averaged), head, raw)
        columns = ood_columns(distance, self.ood_table, self.ood_median, self.ood_spread)
        return torch.cat([head.score(raw)[:, None], head.grade_probs(raw), columns], dim=1)


def export_states(module: ContractModule, folder: Path) -> None:
    """Write ``encode.onnx``, ``meet.onnx`` and, for a detector that adds parts, ``ood/sides.onnx``."""
    backbone, config = module.backbone, module.backbone.encoder.config
    width, vectors = config.hidden_size, 2 if module.ood.layers == AVERAGE else 1
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]]) % config.vocab_size
    encode = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    items = torch.ones(2, 3)
    _export(EncodeModule(module), encode, ("states", "pooled"), folder / files.ENCODE, config)
    pooled = backbone.pool(torch.ones(2, 3, width), torch.ones(2, 3), ids)[:, None].repeat(1, vectors, 1)
    if module.detector.adds_halves:
        _export(SidesModule(module), {"pooled": pooled}, ("sides",), folder / files.OOD_SIDES, config)
    meet = {
        "query_tokens": torch.ones(width, 3, dtype=torch.int8), "query_scales": torch.ones(3),
        "query_ids": ids[0], "query_pooled": pooled[0],
        "query_ood": torch.ones(1), "item_tokens": torch.ones(2, 3, width, dtype=torch.uint8), "item_scales": items,
        "item_mask": items, "item_content": items, "item_pooled": pooled, "item_ood": torch.ones(2),
    }  # fmt: skip
    _export(MeetModule(module), meet, ("scores",), folder / files.MEET, config)


def _export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, config: Any) -> None:
    """Trace with example inputs; unused inputs are declared too, so that all bundles are fed alike."""
    path.parent.mkdir(exist_ok=True)
    input_axes, output_axes = ({name: _AXES[name] for name in names} for names in (inputs, outputs))
    trace(module.eval(), config, input_axes, output_axes, path, inputs)
    graph = onnx.load(path)
    graph.ir_version = IR_VERSION
    traced = {value.name for value in graph.graph.input}
    for name, tensor in inputs.items():
        if name not in traced:
            kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
            graph.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * tensor.ndim))
    onnx.save(graph, path)
    onnx.checker.check_model(path)


def digest_encoder(backbone: SplitReranker) -> str:
    """Digest everything that item states depend on, except text, tokenizer, engine and precision."""
    weights = backbone.encoder.state_dict()
    digests = {name: digest_data(tensor.contiguous().numpy().tobytes()) for name, tensor in sorted(weights.items())}
    return digest_json([digests, backbone.pooling, backbone.position_offset, backbone.encoder.config.to_dict()])
