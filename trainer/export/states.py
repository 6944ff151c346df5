"""The graphs for item states.

``encode.onnx`` encodes a query or an item; ``ood/sides.onnx`` computes its part of the OOD distance, for a detector
that adds parts; ``meet.onnx`` scores a query with items in eight bits, with the output of ``model.onnx``.
"""

from __future__ import annotations

import dataclasses
import heapq
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.graph_contract import IR_VERSION
from darl_opensearch.io.digest import digest_data, digest_json, hash_int
from darl_opensearch.io.progress import count_up
from darl_opensearch.scores import is_ood
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import ZERO, StateStore
from trainer.export.graph import ContractModule, trace
from trainer.export.int8 import quantise, refit_calibration
from trainer.export.judged_pairs import NDCG_BOUND, JudgedPairs, find_int8_obstacle, measure_change
from trainer.models.base import AVERAGE, ITEM, PairFeatures
from trainer.models.split import SplitReranker, to_units
from trainer.ood.calibration import ood_columns
from trainer.ood.fitted import FittedOod
from trainer.stages.ood_stage import share_flagged, two_fold_alarms
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

_AXES = {
    "input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"},
    "states": {0: "batch", 1: "seq"}, "pooled": {0: "batch"},
    "query_tokens": {1: "query"}, "query_scales": {0: "query"}, "query_ids": {0: "query"},
    "query_pooled": {}, "query_ood": {},
    "item_tokens": {0: "items", 1: "seq"}, "item_scales": {0: "items", 1: "seq"},
    "item_mask": {0: "items", 1: "seq"}, "item_content": {0: "items", 1: "seq"},
    "item_pooled": {0: "items"}, "item_ood": {0: "items"}, "scores": {0: "items"}, "sides": {0: "batch"},
}  # fmt: skip

MOST_REFERENCE = 4096  # texts of a half that the references of a quantised graph are made of
SCORE_BOUND, OOD_BOUND = 0.005, 0.01  # of fp32 states against model.onnx


def add_states(
    module: ContractModule, card: Card, work: Path, compared: Sequence[JudgedPairs], data: RunData, *, int8: bool
) -> Card:
    """Write the graphs unless they differ too much from ``model.onnx``.

    :param work: folder of the graphs, with ``model.onnx`` and the tokenizer.
    :param compared: the dev pairs, and those of training queries for nDCG.
    :param data: of the run.
    :param int8: write quantised graphs, too.
    :return: the card with the measurements.
    """
    backbone, graphs = module.backbone, dict(card.graphs)
    if not backbone.include_prompt and len(set(backbone.prompt_tokens)) > 1:
        graphs[files.MEET] = {"left_out": "one encoder graph cannot leave prompts of two lengths out of its pooling"}
        return dataclasses.replace(card, graphs=graphs)
    export_states(module, work)
    card = dataclasses.replace(card, states={"encoder": digest_encoder(backbone)})
    with StateStore(None) as store:
        rows = [score_by_states(card, work, store, pairs.texts) for pairs in compared]
    graphs[files.MEET] = compared[0].compare(rows[0], "states") | {"ndcg_change": measure_change(compared, rows)}
    if reason := find_states_obstacle(graphs[files.MEET]):
        for name in (files.ENCODE, files.MEET, files.OOD_SIDES):
            (work / name).unlink(missing_ok=True)
        graphs[files.MEET]["left_out"] = reason
        return dataclasses.replace(card, graphs=graphs, states={})
    if int8 and backbone.quantises:
        graphs[files.MEET_INT8] = _quantise_states(module, card, work, compared, data)
        if reason := find_int8_obstacle(graphs[files.MEET_INT8]["ndcg_change"]):
            for name in (files.ENCODE_INT8, files.MEET_INT8, files.OOD_SIDES_INT8):
                (work / name).unlink(missing_ok=True)
            graphs[files.MEET_INT8]["left_out"] = reason
    return dataclasses.replace(card, graphs=graphs)


def _quantise_states(
    module: ContractModule, card: Card, work: Path, compared: Sequence[JudgedPairs], data: RunData
) -> dict[str, Any]:
    """Write the quantised graphs; the references of the detector and its calibration are fitted to them.

    A training text must be recognised among the references, to be left out of its own neighbours, so both have to
    come from the same graph.
    """
    dev = compared[0]
    quantise(work / files.ENCODE, work / files.ENCODE_INT8)
    shutil.copyfile(work / files.MEET, work / files.MEET_INT8)
    with StateStore(None) as store:
        if module.detector.adds_halves:
            with _open(card, work, store, int8=True) as scorer:
                halves = _encode_learnt(scorer.halves, data.judged(data.learnt))
            export_sides(module.ood.refit_sides(*halves), module.backbone, work / files.OOD_SIDES_INT8)
        traffic, familiar = data.unjudged(data.traffic), data.unjudged(data.familiar)
        scaled = score_by_states(card, work, store, traffic.texts, int8=True)[:, dev.columns.ood_distance]
        distances = refit_calibration(work / files.MEET_INT8, scaled, module.ood.calibration, dev.alpha)
        seen = score_by_states(card, work, store, familiar.texts, int8=True)[:, dev.columns.ood_score]
        report = module.ood.report
        rows = [score_by_states(card, work, store, pairs.texts, int8=True) for pairs in compared]
        return dev.compare(rows[0], "states_int8") | {
            "ndcg_change": measure_change(compared, rows),
            "false_alarms_unseen_items": {
                "fp32": report["false_alarms_unseen_items"], "int8": two_fold_alarms(distances, traffic, dev.alpha),
            },
            "false_alarms_seen_items": {
                "fp32": report["false_alarms_seen_items"], "int8": share_flagged(is_ood(seen, dev.alpha), familiar),
            },
        }  # fmt: skip


def _encode_learnt(halves: Any, learnt: Pairs) -> tuple[Tensor, Tensor]:
    """Encode training queries and items; samples by their hashes where there are too many.

    :param halves: the ``HalfScorer`` of the quantised graph.
    :return: ``[m, h]`` what the detector reads of each text, of queries and of items.
    """
    queries, items = (heapq.nsmallest(MOST_REFERENCE, texts, key=hash_int) for texts in (learnt.queries, learnt.items))
    counted = count_up(queries, "encoding queries by the quantised graph", len(queries))
    pooled = [halves.encode_query(query)["query_pooled"][-1] for query in counted]
    states = halves.fill({halves.keys.of(text): text for text in items})
    return torch.from_numpy(np.stack(pooled)), torch.from_numpy(np.stack([s.pooled[-1] for s in states.values()]))


def _open(card: Card, work: Path, store: StateStore, *, int8: bool) -> Scorer:
    digests = {path.relative_to(work).as_posix(): "" for path in work.rglob("*") if path.is_file()}
    return Scorer.open(Bundle(work, card, digests), int8=int8, states=store)


def score_by_states(
    card: Card, work: Path, store: StateStore, pairs: Sequence[tuple[str, str]], *, int8: bool = False
) -> NDArray[np.float32]:
    """Score pairs from item states.

    :return: ``[n, 3 + k]``.
    """
    rows = np.empty((len(pairs), card.columns.width), dtype=np.float32)
    places: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(place)
    with _open(card, work, store, int8=int8) as scorer:
        for query, query_places in count_up(places.items(), "scoring queries by item states", len(places)):
            rows[query_places] = scorer.score(query, [pairs[place][1] for place in query_places]).data
    return rows


def find_states_obstacle(report: Mapping[str, Any]) -> str:
    """Return why fp32 states must not be used, or ``""``.

    The change of nDCG counts beyond one standard error: a single swap of near-ties has no more.
    """
    ndcg = report["ndcg_change"]
    differences = {
        "a score": (report["score_difference"]["max"], SCORE_BOUND),
        "nDCG": (abs(ndcg["mean"]) - ndcg["standard_error"], NDCG_BOUND),
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
        # Either half: they pool alike, as add_states makes sure.
        pooled = [self.backbone.pool(part, mask, positions, ITEM) for part in (states, mean) if part is not None]
        return to_units(states), torch.stack(pooled, dim=1)


class SidesModule(nn.Module):
    """Computes the part of the OOD distance of a text, as query and as item."""

    def __init__(self, ood: FittedOod) -> None:
        super().__init__()
        self.ood, self.detector = ood, ood.detector

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
    width = config.hidden_size
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]]) % config.vocab_size
    encode = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    items = torch.ones(2, 3)
    _export(EncodeModule(module), encode, ("states", "pooled"), folder / files.ENCODE, config)
    if module.detector.adds_halves:
        export_sides(module.ood, backbone, folder / files.OOD_SIDES)
    pooled = _example_pooled(module.ood, backbone)
    meet = {
        "query_tokens": torch.ones(width, 3, dtype=torch.int8), "query_scales": torch.ones(3),
        "query_ids": ids[0], "query_pooled": pooled[0],
        "query_ood": torch.ones(1), "item_tokens": torch.ones(2, 3, width, dtype=torch.uint8), "item_scales": items,
        "item_mask": items, "item_content": items, "item_pooled": pooled, "item_ood": torch.ones(2),
    }  # fmt: skip
    _export(MeetModule(module), meet, ("scores",), folder / files.MEET, config)


def export_sides(ood: FittedOod, backbone: SplitReranker, path: Path) -> None:
    """Write the graph of a text's part of the OOD distance."""
    _export(SidesModule(ood), {"pooled": _example_pooled(ood, backbone)}, ("sides",), path, backbone.encoder.config)


def _example_pooled(ood: FittedOod, backbone: SplitReranker) -> Tensor:
    vector = F.normalize(torch.ones(backbone.width), dim=0)
    return vector.repeat(2, 2 if ood.layers == AVERAGE else 1, 1)


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
    weights |= {f"projection.{name}": tensor for name, tensor in backbone.projection.state_dict().items()}
    digests = {name: digest_data(tensor.contiguous().numpy().tobytes()) for name, tensor in sorted(weights.items())}
    facts = [digests, backbone.pooling, backbone.position_offset, backbone.encoder.config.to_dict()]
    if backbone.projection.steps or not backbone.include_prompt:  # otherwise stored states keep their names
        facts += [backbone.projection.steps, backbone.include_prompt]
    return digest_json(facts)
