"""The engines of ``benchmarks.serving.peers``: each function opens one, in the Python that has what it imports.

An engine scores the items of a query on the given number of threads. Nothing of this project is imported before an
engine of ours is opened: peers run in the environment of ``requirements/peers-serving.txt``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Score = Callable[[str, Sequence[str]], object]
MAX_LENGTH = 160  # tokens of a pair
CHECKPOINT, FP32, INT8 = "checkpoint", "model.onnx", "model_int8.onnx"
FLASHRANK = "ms-marco-MiniLM-L-12-v2"  # it opens folders and files of its own names only


def open_ours(
    work: Path, threads: int, *, int8: bool, states: str = "", passes: int | None = None, inside: int = 1
) -> Score:
    """Open this project's scorer: on pairs, or on item states that are ``kept`` in memory or ``forgotten``.

    :param passes: side by side; None: one a thread, as a scorer has it.
    :param inside: threads of a pass, which a scorer cannot set.
    """
    from darl_opensearch.scoring import Scorer
    from darl_opensearch.states import StateStore

    if inside > 1:
        _use_threads_inside(inside)
    threads = passes or threads
    store = StateStore(None, memory_bytes=(1 << 33) * (states == "kept")) if states else None
    return Scorer.open(work / ("bundle" if states else "pairs"), int8=int8, threads=threads, states=store).score


def _use_threads_inside(count: int) -> None:
    """Let every session that is opened from now on use several threads for a pass."""
    import onnxruntime

    open_session = onnxruntime.InferenceSession

    def open_with_threads(*arguments: Any, sess_options: Any, **options: Any) -> Any:
        sess_options.intra_op_num_threads = count
        return open_session(*arguments, sess_options=sess_options, **options)

    onnxruntime.InferenceSession = open_with_threads


def open_onnxruntime(work: Path, threads: int, *, graph: str, budget: int) -> Score:
    """Open a plain session of ONNX Runtime: calls of one thread side by side.

    :param budget: tokens of a batch; 1: pairs one by one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(work / CHECKPOINT / graph), options, providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )  # fmt: skip
    pool, tokenizer = ThreadPoolExecutor(threads), _open_tokenizer(work)

    def score(query: str, items: Sequence[str]) -> object:
        encodings = tokenizer.encode_batch([(query, item) for item in items])
        scores = np.empty(len(items), np.float32)

        def run(batch: tuple[Any, dict[str, Any]]) -> None:
            scores[batch[0]] = session.run(None, batch[1])[0][:, 0]

        list(pool.map(run, _batches(encodings, budget, 1)))
        return scores

    return score


def open_openvino(work: Path, threads: int, *, int8: bool, budget: int) -> Score:
    """Open OpenVINO for throughput, in fp32 or quantised by NNCF after training; widths are padded to 16."""
    import json

    import openvino

    core, tokenizer = openvino.Core(), _open_tokenizer(work)
    model = core.read_model(work / CHECKPOINT / FP32)
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
    if int8:
        import nncf

        texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
        pairs = list(zip(texts["calibration"], texts["items"][-60:], strict=False))
        samples = [inputs for _, inputs in _batches(tokenizer.encode_batch(pairs), 1, 1)]
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
        )
    else:
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(model, "CPU", properties)
    requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def score(query: str, items: Sequence[str]) -> object:
        encodings = tokenizer.encode_batch([(query, item) for item in items])
        scores = np.empty(len(items), np.float32)
        queue = openvino.AsyncInferQueue(compiled, requests)

        def take(request: Any, places: Any) -> None:
            scores[places] = request.get_output_tensor(0).data[:, 0]

        queue.set_callback(take)
        for places, inputs in _batches(encodings, budget, 16):
            queue.start_async(inputs, places)
        queue.wait_all()
        return scores

    return score


def open_cross_encoder(work: Path, threads: int, *, bf16: bool = False) -> Score:
    """Open sentence-transformers' CrossEncoder with its defaults, or in bfloat16."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    options = {"model_kwargs": {"dtype": torch.bfloat16}} if bf16 else {}
    model = CrossEncoder(str(work / CHECKPOINT), device="cpu", max_length=MAX_LENGTH, **options)
    return lambda query, items: model.predict([(query, item) for item in items], show_progress_bar=False)


def open_cross_encoder_onnx(work: Path, threads: int, *, graph: str) -> Score:
    """Open sentence-transformers' CrossEncoder on its ONNX backend."""
    import onnxruntime
    from sentence_transformers import CrossEncoder

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    given = {"file_name": graph, "provider": "CPUExecutionProvider", "session_options": options}
    model = CrossEncoder(
        str(work / CHECKPOINT), device="cpu", max_length=MAX_LENGTH, backend="onnx", model_kwargs=given
    )
    return lambda query, items: model.predict([(query, item) for item in items], show_progress_bar=False)


def open_cross_encoder_openvino(work: Path, threads: int) -> Score:
    """Open sentence-transformers' CrossEncoder on its OpenVINO backend, in fp32 whatever the CPU prefers."""
    from sentence_transformers import CrossEncoder

    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = CrossEncoder(
        str(work / CHECKPOINT), device="cpu", max_length=MAX_LENGTH, backend="openvino",
        model_kwargs={"ov_config": config, "export": True},
    )  # fmt: skip
    return lambda query, items: model.predict([(query, item) for item in items], show_progress_bar=False)


def open_fastembed(work: Path, threads: int, *, graph: str) -> Score:
    """Open fastembed's TextCrossEncoder, which is fastest on pairs one by one."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name, folder = "local/minilm", str(work / CHECKPOINT)
    TextCrossEncoder.add_custom_model(name, ModelSource(hf=name), model_file=graph)
    model = TextCrossEncoder(name, threads=threads, specific_model_path=folder)
    return lambda query, items: list(model.rerank(query, items, batch_size=1))


def open_flashrank(work: Path, threads: int, *, graph: str) -> Score:
    """Open FlashRank, which pads all pairs to the longest; it sets no number of threads."""
    from flashrank import Ranker, RerankRequest

    ranker = Ranker(FLASHRANK, cache_dir=str(work / Path(graph).stem), max_length=MAX_LENGTH, log_level="ERROR")
    return lambda query, items: ranker.rerank(RerankRequest(query, [{"text": item} for item in items]))


def open_multi_vector(work: Path, threads: int, *, kept: bool, maxsim_cpu: bool = False) -> Score:
    """Open sentence-transformers' MultiVectorEncoder: late interaction over token vectors of 128.

    :param kept: whether items' embeddings are kept in memory.
    :param maxsim_cpu: score by maxsim-cpu instead of the encoder's own similarity.
    """
    import torch

    # The development environment's release has no such encoder.
    library: Any = import_module("sentence_transformers")
    parts: Any = import_module("sentence_transformers.base.modules")
    late: Any = import_module("sentence_transformers.multi_vector_encoder.modules")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = {"module_input_name": "token_embeddings"}
    backbone = parts.Transformer(str(work / CHECKPOINT), max_seq_length=MAX_LENGTH)
    head = parts.Dense(384, 128, bias=False, activation_function=torch.nn.Identity(), **where)
    model = library.MultiVectorEncoder(
        modules=[backbone, head, late.MultiVectorMask(), parts.Normalize(**where)], device="cpu"
    )
    embeddings: dict[str, Any] = {}

    def embed(items: Sequence[str]) -> list[Any]:
        if missing := [item for item in items if item not in embeddings]:
            encoded = model.encode_document(missing, convert_to_numpy=maxsim_cpu, show_progress_bar=False)
            embeddings.update(zip(missing, encoded, strict=True))
        return [embeddings[item] for item in items]

    def score(query: str, items: Sequence[str]) -> object:
        encoded = model.encode_query(query, convert_to_numpy=maxsim_cpu, show_progress_bar=False)
        documents = embed(items)
        if not kept:
            embeddings.clear()
        if not maxsim_cpu:
            return model.similarity([encoded], documents)
        from maxsim_cpu import maxsim_scores_variable

        return maxsim_scores_variable(encoded, documents)

    return score


def _open_tokenizer(work: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / CHECKPOINT / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    return tokenizer


def _batches(encodings: Sequence[Any], budget: int, multiple: int) -> list[tuple[Any, dict[str, Any]]]:
    """Make batches of pairs sorted by length: their places, and the graph's inputs."""
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    order, batches, start = np.argsort(-lengths, kind="stable"), [], 0
    while start < len(order):
        width = int(-(-lengths[order[start]] // multiple) * multiple)
        places = order[start : start + max(1, budget // width)]
        inputs = {
            name: np.zeros((len(places), width), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        for row, place in enumerate(places):
            size = lengths[place]
            inputs["input_ids"][row, :size] = encodings[place].ids
            inputs["attention_mask"][row, :size] = 1
            inputs["token_type_ids"][row, :size] = encodings[place].type_ids
        batches.append((places, inputs))
        start += len(places)
    return batches


OPEN: dict[str, Callable[..., Score]] = {
    "ours": open_ours, "onnxruntime": open_onnxruntime, "openvino": open_openvino, "cross-encoder": open_cross_encoder,
    "cross-encoder-onnx": open_cross_encoder_onnx, "cross-encoder-openvino": open_cross_encoder_openvino,
    "fastembed": open_fastembed, "flashrank": open_flashrank, "multi-vector": open_multi_vector,
}  # fmt: skip
