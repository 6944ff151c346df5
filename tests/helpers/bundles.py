"""A real bundle without any training: a hand-built graph that keeps the contract.

Its score grows with the overlap of the words' random vectors, so it ranks by shared words: deterministic,
under 100 kB, made in a fraction of a second without torch, and accepted by ML Commons.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from darl_opensearch import bundle as bundle_files
from darl_opensearch.bundle import Bundle, Card, OodCard, writing
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import ItemTemplate
from tests.helpers.wordpiece import vocabulary

ITEMS = [
    {"id": "b-1", "name": "Bike theft", "kind": "bicycle", "cover": "Stolen bicycles and e-bikes, locks replaced"},
    {"id": "b-2", "name": "Courier rider", "kind": "bicycle", "cover": "Accident and third party cover for riders"},
    {"id": "t-1", "name": "Ski week", "kind": "travel", "cover": "Rescue on the piste, stolen skis, lost luggage"},
    {"id": "t-2", "name": "City break", "kind": "travel", "cover": "Lost luggage and missed flights"},
    {"id": "h-1", "name": "Roof and walls", "kind": "home", "cover": "Fire, storm and burst pipes for your house"},
    {"id": "h-2", "name": 'Café "Küche"', "kind": "home", "cover": "Kitchen fires; backslash \\ and {braces} in text"},
]
QUERIES = ["stolen bicycle", "lost luggage on a flight", "storm damage to my roof", "ski rescue", "kitchen fire"]
SCALE3 = GradeScale(("irrelevant", "related", "fits"), (0.0, 1.0, 3.0))
TEMPLATE = ItemTemplate(fields=("=name", "kind", "cover"), slice_field="kind")


def tiny_tokenizer(texts: list[str], max_length: int) -> Tokenizer:
    """A WordPiece tokenizer over ``texts`` with the pair template every bundle has."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:;|'\"-{}()[]\\/?!"]
    found = vocabulary(tokenizer, texts, size=600, special=special, alphabet=alphabet)
    tokenizer.model = models.WordPiece(found, unk_token="[UNK]")
    tokenizer.add_special_tokens(special)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 [CLS]:1 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    tokenizer.no_padding()
    return tokenizer


def tiny_graph(vocab: int, scale: GradeScale, *, width: int = 24, seed: int = 7) -> tuple[onnx.ModelProto, ...]:
    """The main graph and the feature graph, opset 17 and IR 8."""
    rng = np.random.default_rng(seed)
    k = scale.k
    cuts = np.linspace(0.25, 0.65, k - 1, dtype=np.float32)
    constants = {
        "table": rng.standard_normal((vocab, width)).astype(np.float32) * (np.arange(vocab) > 4)[:, None],
        "one": np.float32(1),
        "tiny": np.float32(1e-6),
        "slope": np.float32(10),
        "cuts": cuts,
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "zero_col": np.zeros((1, 1), np.float32),
        "gain": (np.diff(scale.gains) / scale.gains[-1]).astype(np.float32)[:, None],
        "calibration": np.linspace(0.1, 2.0, 39, dtype=np.float32)[None, :],
        "n1": np.float32(40),
        "centre": rng.standard_normal((1, width)).astype(np.float32) * 0.1,
    }
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, inputs: str, output: str, **attributes: object) -> None:
        nodes.append(helper.make_node(kind, inputs.split(), [output], **attributes))

    op("Cast", "attention_mask", "mask", to=TensorProto.FLOAT)
    op("Cast", "token_type_ids", "type", to=TensorProto.FLOAT)
    op("Gather", "table input_ids", "states")
    op("Mul", "mask type", "item_mask")
    op("Sub", "mask item_mask", "query_mask")
    for half in ("query", "item"):
        op("Unsqueeze", f"{half}_mask axis2", f"{half}_mask3")
        op("Mul", f"states {half}_mask3", f"{half}_states")
        op("ReduceSum", f"{half}_states axis1", f"{half}_sum", keepdims=0)
        op("Mul", f"{half}_sum {half}_sum", f"{half}_sq")
        op("ReduceSum", f"{half}_sq axis1", f"{half}_norm2", keepdims=1)
        op("Add", f"{half}_norm2 tiny", f"{half}_norm2e")
        op("Sqrt", f"{half}_norm2e", f"{half}_norm")
        op("Div", f"{half}_sum {half}_norm", f"{half}_unit")
    op("Mul", "query_unit item_unit", "product")
    op("ReduceSum", "product axis1", "cosine", keepdims=1)
    op("Sub", "cosine cuts", "margin")
    op("Mul", "margin slope", "logits")
    op("Sigmoid", "logits", "above")  # P(grade > j)
    op("MatMul", "above gain", "score")
    op("Mul", "score zero_col", "zeros")
    op("Add", "zeros one", "ones")
    op("Concat", "ones above", "upper", axis=1)
    op("Concat", "above zeros", "lower", axis=1)
    op("Sub", "upper lower", "grade_probs")
    op("Sub", "query_unit centre", "offset")
    op("Mul", "offset offset", "offset2")
    op("ReduceSum", "offset2 axis1", "distance", keepdims=1)
    op("GreaterOrEqual", "calibration distance", "beyond")
    op("Cast", "beyond", "beyond_f", to=TensorProto.FLOAT)
    op("ReduceSum", "beyond_f axis1", "count", keepdims=1)
    op("Add", "count one", "count1")
    op("Div", "count1 n1", "p")
    op("Sub", "one p", "ood_score")
    op("Sub", "distance one", "ood_distance")
    op("Concat", "score grade_probs ood_score ood_distance", "scores", axis=1)
    op("Concat", "query_unit item_unit", "features", axis=1)
    initializers = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"])
        for n in ("input_ids", "attention_mask", "token_type_ids")
    ]
    models_ = []
    for output, columns in (("scores", 3 + k), ("features", 2 * width)):
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", columns])
        graph = helper.make_graph(nodes, "tiny", inputs, [out], initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        models_.append(model)
    return tuple(models_)


def tiny_bundle(
    path: Path, *, name: str = "tiny", version: str = "1", scale: GradeScale = SCALE3, alpha: float = 0.05
) -> Bundle:
    """Write a bundle that scores by shared words."""
    card = Card(
        name=name,
        version=version,
        scale=scale,
        template=TEMPLATE,
        query_cap=32,
        item_cap=64,
        ood=OodCard("mahalanobis", "query", alpha, 39, 39),
        backbone="split",
        created="2026-01-01T00:00:00+00:00",
    )
    texts = [TEMPLATE.render(item) for item in ITEMS] + QUERIES
    tokenizer = tiny_tokenizer(texts, card.max_length)
    model, features = tiny_graph(tokenizer.get_vocab_size(), scale)
    with writing(path, card) as work:
        onnx.save(model, work / bundle_files.MODEL)
        onnx.save(features, work / bundle_files.FEATURES)
        tokenizer.save(str(work / bundle_files.TOKENIZER))
        (work / bundle_files.README).write_text("---\nlicense: apache-2.0\n---\n# tiny\n", encoding="utf-8")
        np.save(work / bundle_files.CALIBRATION, np.linspace(0.1, 2.0, 39, dtype=np.float32))
    return Bundle.open(path)


def copy_bundle(bundle: Bundle, target: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(bundle.path, target))


def correct_digests(folder: Path, **card: Any) -> Path:
    """Write the card of a changed bundle anew, so that only what was changed is wrong with it."""
    path = folder / bundle_files.CARD
    data = json.loads(path.read_text(encoding="utf-8")) | card
    found = (p for p in folder.rglob("*") if p.is_file() and p != path)
    data["files"] = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}
    path.write_text(json.dumps(data), encoding="utf-8")
    return folder


def with_slope(bundle: Bundle, target: Path, slope: float) -> Bundle:
    """The same bundle, surer or less sure of its grades; below 0 it ranks backwards."""
    with writing(target, bundle.card) as work:
        for name in bundle.digests:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.path / name, work / name)
        for graph in ("model.onnx", "features.onnx"):
            model = onnx.load(work / graph)
            for tensor in model.graph.initializer:
                if tensor.name == "slope":
                    tensor.CopyFrom(numpy_helper.from_array(np.float32(slope), "slope"))
            onnx.save(model, work / graph)
    return Bundle.open(target)


def bundle_of(folder: Path, name: str, version: str, slope: float) -> Bundle:
    """A tiny bundle of this name and version, with a slope of its own."""
    plain = tiny_bundle(folder / f"{name}-{version}-plain", name=name, version=version)
    return with_slope(plain, folder / f"{name}-{version}", slope)
