"""What a graph must be for ML Commons and for the scorer; checked at export and by ``darl check``.

ML Commons carries ONNX Runtime 1.16.3: opset 19 and IR 9 are the newest it loads, and it feeds exactly these
three inputs (ml-commons #4924).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OPSET, IR_VERSION = 17, 8
MAX_TOKENS = 512  # ML Commons truncates longer pairs
ENCODE_INPUTS = ("input_ids", "attention_mask")
MEET_INPUTS = (
    "query_tokens", "query_scales", "query_ids", "query_pooled", "query_ood", "item_tokens", "item_scales", "item_mask",
    "item_content", "item_pooled", "item_ood",
)  # fmt: skip
# Operators of com.microsoft that ONNX Runtime 1.16.3 has and quantisation writes.
KNOWN_CUSTOM = frozenset(
    f"com.microsoft.{name}" for name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLinear")
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    :param passed: whether it is as it must be; None when it could not be looked at.
    :param detail: what was found, and why that fails.
    """

    check: str
    passed: bool | None
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {"check": self.check, "passed": self.passed, "detail": self.detail}


def inspect_graph(
    path: Path, *, width: int | None = None, data: str | None = None, inputs: Sequence[str] = INPUTS,
    outputs: Sequence[str] = ("scores",),
) -> Iterator[Finding]:  # fmt: skip
    """Look at a graph without running it.

    :param width: columns of ``scores``.
    :param data: file beside it that may hold its weights; None: it holds them itself.
    """
    name = path.name
    try:
        import onnx
    except ModuleNotFoundError:
        yield Finding(f"{name}: static", None, "onnx is not installed: pip install 'darl-opensearch[train]'")
        return
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as err:  # noqa: BLE001  protobuf's own types
        yield _finding(f"{name}: static", False, f"not an ONNX file ({err})")
        return
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    yield _finding(
        f"{name}: opset", opsets.get("ai.onnx") == OPSET, f"ai.onnx {opsets.get('ai.onnx')}, must be {OPSET}"
    )
    yield _finding(f"{name}: IR", model.ir_version == IR_VERSION, f"{model.ir_version}, must be {IR_VERSION}")
    used = {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    custom = sorted(used - KNOWN_CUSTOM)
    yield _finding(f"{name}: operators", not custom, f"unknown to ONNX Runtime 1.16.3: {', '.join(custom) or 'none'}")
    kinds = [(i.name, i.type.tensor_type.elem_type, len(i.type.tensor_type.shape.dim)) for i in model.graph.input]
    tokens = [(n, onnx.TensorProto.INT64, 2) for n in inputs]
    right = kinds == tokens if "input_ids" in inputs else {kind[0] for kind in kinds} == set(inputs)
    yield _finding(f"{name}: inputs", right, f"{[kind[0] for kind in kinds]}, must be {list(inputs)}, tokens int64")
    given = [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output]
    right = given == [(n, onnx.TensorProto.FLOAT) for n in outputs]
    yield _finding(f"{name}: outputs", right, f"{[o[0] for o in given]}, must be {list(outputs)}, float32")
    if width is not None and right:
        dims = model.graph.output[0].type.tensor_type.shape.dim
        columns = dims[-1].dim_value if dims else 0  # 0 also where the size is not written down
        yield _finding(f"{name}: columns", columns in (0, width), f"{columns or 'not declared'}, must be {width}")
    located = {
        entry.value
        for tensor in (*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    allowed = located <= ({data} if data else set())
    where = f"has external data in {', '.join(sorted(located))}" if located else "no external data"
    yield _finding(f"{name}: weights", allowed, f"{where}, must be in {f'itself or {data}' if data else 'itself'}")


def _finding(check: str, passed: bool, detail: str) -> Finding:
    return Finding(check, passed, detail)
