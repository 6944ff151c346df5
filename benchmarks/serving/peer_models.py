"""Writing what the engines of ``benchmarks.serving.peers`` open: one model as a bundle, a checkpoint and ONNX graphs.

The bundle is the insurance sample's. The checkpoint has the same shape, all-MiniLM-L6-v2 with a random head of one
logit: only its speed is compared. Whoever opens it cuts a pair at the same length.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.serving.peer_engines import CHECKPOINT, FLASHRANK, FP32, INT8, MAX_LENGTH
from benchmarks.serving.sample import add_pair_graph, make_bundle


def open_tokenizer(file: Path) -> Any:
    """Open a tokenizer with neither padding nor truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def write_models(work: Path, bundle: Path | None) -> None:
    """Write ``bundle``, ``pairs``, ``checkpoint`` with two graphs, and folders for FlashRank under ``work``."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from trainer.models.sources import find_packaged_minilm

    add_pair_graph(make_bundle(work, bundle), work / "pairs")
    base, folder = find_packaged_minilm(), work / CHECKPOINT
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(base, num_labels=1)
    BertForSequenceClassification.from_pretrained(base, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, model_max_length=MAX_LENGTH).save_pretrained(folder)
    open_tokenizer(folder / "tokenizer.json").save(str(folder / "tokenizer.json"))
    exported = work / "exported"
    main_export(str(folder), output=exported, task="text-classification", opset=17)
    (exported / FP32).rename(folder / FP32)
    shutil.rmtree(exported)
    quantize_dynamic(
        folder / FP32, folder / INT8, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
    for graph in (FP32, INT8):
        place = work / Path(graph).stem / FLASHRANK
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.onnx", "*.safetensors"))
        (place / "flashrank-MiniLM-L-12-v2_Q.onnx").symlink_to(folder / graph)
