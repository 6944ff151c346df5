"""The graphs that take a pair apart: each half once, then what meets.

``encode.onnx`` reads one half, query or item; ``ood.onnx`` says what that half adds to the OOD distance, for a
detector that adds halves; ``meet.onnx`` reads a query and items in eight bits and answers as ``model.onnx`` does.
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
    """Write the graphs, and measure them against ``model.onnx``; left out where they differ too much.

    :param work: folder of the graphs, with ``model.onnx`` and the tokenizer.
    :param calibration: pairs that the quantised graphs are calibrated on; none: there are no such graphs.
    :return: the card with what was measured.
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
    """Score pairs as a scorer with item states will.

    :return: ``[n, 3 + k]``.
    """
    digests = {path.relative_to(work).as_posix(): "" for path in work.rglob("*") if path.is_file()}
    rows = np.empty((len(pairs), card.columns.width), dtype=np.float32)
    places: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(place)
    with StateStore(None) as store, Scorer.open(Bundle(work, card, digests), int8=int8, states=store) as scorer:
        for query, at in places.items():
            rows[at] = scorer.score(query, [pairs[place][1] for place in at]).data
    return rows


def _refusal(report: Mapping[str, Any], dev: DevPairs) -> str:
    """Why graphs must not serve; empty if they may."""
    ndcg = report[f"dev_ndcg@{dev.cutoff}"]
    off = {
        "a score": (report["score_difference"]["max"], SCORE_BOUND),
        "nDCG": (abs(ndcg["fp32"] - ndcg["states"]), NDCG_BOUND),
        "the share of OOD decisions": (1 - report["ood_agreement"], OOD_BOUND),
    }
    return "; ".join(f"{what} differs by {by:.4f}, bound {bound}" for what, (by, bound) in off.items() if by > bound)


class EncodeModule(nn.Module):
    """One half: token states of unit length, and the pooled vectors that head and detector read."""

    def __init__(self, module: ContractModule) -> None:
        super().__init__()
        self.backbone, self.layers = module.backbone, module.ood.layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode halves.

        :param input_ids: ``[n, s]`` int64.
        :param attention_mask: ``[n, s]`` int64.
        :return: ``[n, s, h]`` states, and ``[n, v, h]`` pooled: the last layer's, then that of the averaged layers
            where the detector reads it.
        """
        positions = torch.cumsum(torch.ones_like(input_ids), dim=1) - 1
        attention = attention_mask[:, None, :] * torch.ones_like(attention_mask)[:, :, None]
        states, mean = self.backbone.encode(input_ids, attention_mask, positions, attention, self.layers)
        mask = attention_mask.to(states)
        pooled = [self.backbone.pool(part, mask, positions) for part in (states, mean) if part is not None]
        return to_units(states), torch.stack(pooled, dim=1)


class SidesModule(nn.Module):
    """What a half adds to the OOD distance, as a pair's query and as its item."""

    def __init__(self, module: ContractModule) -> None:
        super().__init__()
        self.ood, self.detector = module.ood, module.detector

    def forward(self, pooled: Tensor) -> Tensor:
        """Look at halves.

        :param pooled: ``[n, v, h]`` from :class:`EncodeModule`.
        :return: ``[n, 2]``.
        """
        return self.ood.of_sides(pooled[:, -1])


class IntegerProduct(torch.autograd.Function):
    """Product of whole numbers: in eight bits three times as fast on a CPU as in float, and exact."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, query: Tensor) -> Tensor:
        """Multiply.

        :param items: ``[n, b, h]`` uint8, 128 more than what is meant.
        :param query: ``[h, a]`` int8.
        :return: ``[n, b, a]`` int32.
        """
        return torch.matmul(items.int() - ZERO, query.int())

    @staticmethod
    def symbolic(g: Any, items: Any, query: Any) -> Any:
        """Write the operator that the tracer does not know."""
        zero = g.op("Constant", value_t=torch.tensor(ZERO, dtype=torch.uint8))
        return g.op("MatMulInteger", items, query, zero)


class MeetModule(nn.Module):
    """A query and items, encoded before: the columns of ``model.onnx``."""

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
        :param query_ood: ``[1]`` float; read where the detector adds halves, as ``item_ood`` is.
        :param item_tokens: ``[n, b, h]`` uint8, 128 more than the states divided by their scales.
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
    """Write ``encode.onnx``, ``meet.onnx`` and, for a detector that adds halves, ``ood.onnx``."""
    backbone = module.backbone
    width, vectors = module.backbone.encoder.config.hidden_size, 2 if module.ood.layers == AVERAGE else 1
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]]) % module.backbone.encoder.config.vocab_size
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    items = torch.ones(2, 3)
    _export(
        EncodeModule(module),
        {"input_ids": ids, "attention_mask": mask},
        ("states", "pooled"),
        folder / files.ENCODE,
        module.backbone.encoder.config,
    )
    pooled = backbone.pool(torch.ones(2, 3, width), torch.ones(2, 3), ids)[:, None].repeat(1, vectors, 1)
    if module.detector.adds_halves:
        _export(SidesModule(module), {"pooled": pooled}, ("sides",), folder / files.OOD_SIDES, backbone.encoder.config)
    meet = {
        "query_tokens": torch.ones(width, 3, dtype=torch.int8), "query_scales": torch.ones(3),
        "query_ids": ids[0], "query_pooled": pooled[0],
        "query_ood": torch.ones(1), "item_tokens": torch.ones(2, 3, width, dtype=torch.uint8), "item_scales": items,
        "item_mask": items, "item_content": items, "item_pooled": pooled, "item_ood": torch.ones(2),
    }  # fmt: skip
    _export(MeetModule(module), meet, ("scores",), folder / files.MEET, backbone.encoder.config)


def _export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, config: Any) -> None:
    """Trace with an example; an input that nothing reads is declared all the same, so that all are fed alike."""
    path.parent.mkdir(exist_ok=True)
    taken, given = ({name: _AXES[name] for name in names} for names in (inputs, outputs))
    trace(module.eval(), config, taken, given, path, inputs)
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
    """Digest what decides a half's states beside text, tokenizer, engine and precision."""
    weights = backbone.encoder.state_dict()
    digests = {name: digest_data(tensor.contiguous().numpy().tobytes()) for name, tensor in sorted(weights.items())}
    return digest_json([digests, backbone.pooling, backbone.position_offset, backbone.encoder.config.to_dict()])
