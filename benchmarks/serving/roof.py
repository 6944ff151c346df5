"""What share of the machine's matrix products an engine reaches: its linear layers' work over the best plain GEMM."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

ROWS, WIDTH, INNER, LAYERS = 512, 384, 1536, 6  # of all-MiniLM-L6-v2, and tokens of a pass
GOP_OF_A_TOKEN = 2e-9 * LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER)
PASSES = 40


class Gemm:
    """One matrix product of ONNX Runtime, ``[512, 384] x [384, 1536]``, in fp32 or int8."""

    def __init__(self, threads: int, *, int8: bool, seed: int) -> None:
        import onnxruntime

        rng, self._threads = np.random.default_rng(seed), threads
        if int8:
            rows: Any = rng.integers(0, 255, (ROWS, WIDTH), dtype=np.uint8)
            weights: Any = rng.integers(-127, 127, (WIDTH, INNER), dtype=np.int8)
        else:
            rows = rng.standard_normal((ROWS, WIDTH), dtype=np.float32)
            weights = rng.standard_normal((WIDTH, INNER), dtype=np.float32)
        model = _make_model("MatMulInteger" if int8 else "MatMul", weights, int8=int8)
        self._inputs, self._sessions = {"a": rows}, []
        for inside in {1, threads}:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = inside
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._sessions.append((session, threads // inside))

    def measure(self) -> float:
        """Give the best rate of one call on all threads, and of calls of one thread side by side, in GOP/s."""
        best = 0.0
        with ThreadPoolExecutor(self._threads) as pool:
            for session, callers in self._sessions:

                def call(_: int, session: Any = session) -> None:
                    for _ in range(PASSES):
                        session.run(None, self._inputs)

                for _ in range(4):
                    started = time.perf_counter()
                    list(pool.map(call, range(callers)))
                    seconds = time.perf_counter() - started
                    best = max(best, 2e-9 * ROWS * WIDTH * INNER * PASSES * callers / seconds)
        return best


def _make_model(operator: str, weights: Any, *, int8: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    kind, result = (TensorProto.UINT8, TensorProto.INT32) if int8 else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])], "gemm",
        [helper.make_tensor_value_info("a", kind, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("c", result, [ROWS, INNER])], [numpy_helper.from_array(weights, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
