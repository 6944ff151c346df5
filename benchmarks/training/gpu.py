"""Training steps on a GPU: pairs a second, memory, and the share of the card's peak.

Models of random weights in the shape of Qwen3-0.6B (LoRA on every matrix) and of MiniLM-L6 (all weights), made here:
nothing is fetched. Texts are random words, so that every pair has as many tokens as it is said to have. The steps are
those of ``darl train``, whole queries with their items, loss and optimiser included; each setting runs in a process of
its own, and the first steps are not counted.

    python -m benchmarks.training.gpu            # on a machine with a CUDA device
    python -m benchmarks.training.gpu --tiny     # a dry run of the same code on a CPU; its figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.training import source_of
from trainer.config import Config, parse_config
from trainer.models.llm import LlmReranker
from trainer.models.split import SplitReranker
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Objective
from trainer.training_data.pairs import Pairs

SHAPES: dict[str, dict[str, Any]] = {
    "llm": {  # Qwen3-0.6B
        "vocab_size": 151_936, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "split": {  # all-MiniLM-L6-v2
        "vocab_size": 30_522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "max_position_embeddings": 512,
    },
}  # fmt: skip
TINY = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
TINY_DECODER = TINY | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 2200}
WORDS, ITEMS, WARM, STEPS = 2000, 16, 5, 30  # vocabulary; items of a query; steps not counted, steps counted
QUERIES = {"llm": 8, "split": 64}  # in a step
TOKENS = {"query": (4, 16), "item": (32, 192)}  # uniform
PEAK = {"bf16": 989e12, "fp32": 67e12}  # dense, FLOP/s, from the data sheet of H100 and H200 (SXM)


def write_base(folder: Path, backbone: str, *, tiny: bool) -> Path:
    """Write a random checkpoint whose tokenizer has one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "none", "some", "fits"]
    vocabulary = {word: number for number, word in enumerate(marks + [f"w{n}" for n in range(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[CLS]", eos_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    shape = SHAPES[backbone] | ((TINY_DECODER if backbone == "llm" else TINY) if tiny else {})
    kind = "qwen3" if backbone == "llm" else "bert"
    make: Any = AutoModelForCausalLM if backbone == "llm" else AutoModel
    make.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    return folder


def configured(backbone: str, base: Path) -> Config:
    """The configuration of a run."""
    return parse_config(
        {
            "model": {"name": "speed", "backbone": backbone, "base": str(base), "query_cap": 16, "item_cap": 192},
            "data": {"items": "-", "judgments": "-"},
            "grades": {"names": ["none", "some", "fits"]},
            "template": {"fields": ["=text"]},
            "llm": {"prompt": "{query} \n {item} \n", "chat": False},
        },
        where="benchmark",
    )


def random_pairs(queries: int) -> Pairs:
    """Queries with sixteen items each, of random words."""
    draw = np.random.default_rng(0)

    def text(least: int, most: int) -> str:
        return " ".join(f"w{n}" for n in draw.integers(WORDS, size=draw.integers(least, most + 1)))

    items = queries * ITEMS
    index = torch.stack([torch.arange(items) // ITEMS, torch.arange(items)], dim=1)
    return Pairs(
        tuple(text(*TOKENS["query"]) for _ in range(queries)), tuple(text(*TOKENS["item"]) for _ in range(items)),
        index, torch.from_numpy(draw.integers(3, size=items)),
    )  # fmt: skip


def flops_of_step(backbone: str, model: Any, lengths: np.ndarray) -> float:
    """Floating-point operations that a step's mathematics needs, padding and recomputation not counted.

    2 a weight and token forward, 2 for the gradient of the input, 2 for that of a weight that is trained; attention
    4 · length² · width a layer forward (half of it where tokens see only what stands before), twice that backward.
    """
    trained = sum(p.numel() for p in model.encoder.parameters() if p.requires_grad and p.dim() == 2)
    matrices = sum(p.numel() for n, p in model.encoder.named_parameters() if p.dim() == 2 and "embed" not in n)
    shape = model.encoder.config
    width = shape.num_attention_heads * (
        getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    )
    squares = float((lengths.astype(float) ** 2).sum()) * (0.5 if backbone == "llm" else 1.0)
    dense = float(lengths.sum()) * (4 * matrices + 2 * min(trained, matrices))
    return float(dense + 3 * 4 * squares * width * shape.num_hidden_layers)


def measure(backbone: str, precision: str, *, tiny: bool) -> dict[str, Any]:
    """Train for some steps in this process.

    :return: pairs and tokens a second, peak memory in bytes, FLOP/s and their share of the data sheet's peak.
    """
    device = "cpu" if tiny else "cuda"
    steps, a_step = (4, 2) if tiny else (WARM + STEPS, QUERIES[backbone])
    warm = 1 if tiny else WARM
    with tempfile.TemporaryDirectory() as work:
        config = configured(backbone, write_base(Path(work) / "base", backbone, tiny=tiny))
        make: Any = {"llm": LlmReranker, "split": SplitReranker}[backbone]
        model = make.from_base(config, "cumulative")
        pairs = random_pairs(steps * a_step)
        settings = FitSettings(
            epochs=1, learning_rate=1e-5, head_learning_rate=1e-3, batch_queries=a_step, evaluations=1, patience=9,
            precision=precision, device=device,
        )  # fmt: skip
        frame = model.tokenizer().encode("w1", "w1").ids
        lengths = np.array([
            len(pairs.queries[q].split()) + len(pairs.items[i].split()) + len(frame) - 2
            for q, i in pairs.index.tolist()
        ])  # fmt: skip
        ends: list[float] = []

        def ended(done: int, total: int) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
                if len(ends) == warm:
                    torch.cuda.reset_peak_memory_stats()
            ends.append(time.perf_counter())

        flops = flops_of_step(backbone, model, lengths[: a_step * ITEMS * steps]) / steps
        loss = GradedLoss(Objective.make(config.loss, config.grades.scale.gains))
        Fit(model, loss, lambda: 0.0, settings, source_of(pairs, cap=ITEMS, seed=0), seed=0,
            folder=Path(work) / "fit").run(ended)  # fmt: skip
    times = np.diff(ends)[warm - 1 :]
    seconds = float(np.median(times))
    return {
        "pairs_per_second": round(a_step * ITEMS / seconds, 1),
        "tokens_per_second": round(float(lengths.mean()) * a_step * ITEMS / seconds),
        "step_ms": {"median": round(1000 * seconds, 2), "fastest": round(1000 * float(times.min()), 2),
                    "slowest": round(1000 * float(times.max()), 2)},
        "pairs_a_step": a_step * ITEMS, "tokens_a_pair": round(float(lengths.mean()), 1), "steps": len(times),
        "peak_memory_gb": None if tiny else round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "tflops": round(flops / seconds / 1e12, 2),
        "share_of_peak": None if tiny else round(flops / seconds / PEAK[precision], 4),
    }  # fmt: skip


def matrix_product() -> float:
    """TFLOP/s of an 8192 × 8192 × 8192 product in bf16, of random numbers: what the card reaches here."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 2 * 8192**3 * 20 / (time.perf_counter() - begin) / 1e12


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="repetitions, each setting once in each (default: 2)")
    parser.add_argument("--tiny", action="store_true", help="a dry run on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--worker", nargs=2, metavar=("BACKBONE", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(measure(*args.worker, tiny=args.tiny)))
        return 0
    figures: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for backbone in SHAPES:
            for precision in PEAK:
                command = [sys.executable, "-m", "benchmarks.training.gpu", "--worker", backbone, precision]
                ran = subprocess.run(command + ["--tiny"] * args.tiny, stdout=subprocess.PIPE, text=True, check=True)
                figures.setdefault(f"{backbone}, {precision}", []).append(json.loads(ran.stdout.splitlines()[-1]))
                print(
                    f"{backbone}, {precision}: {figures[f'{backbone}, {precision}'][-1]}", file=sys.stderr, flush=True
                )
    result = {
        "figures": figures,
        "device": "cpu" if args.tiny else torch.cuda.get_device_name(),
        "bf16_matrix_product_tflops": None if args.tiny else round(matrix_product(), 1),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")},
        "config": {"shapes": SHAPES, "queries_a_step": QUERIES, "items_a_query": ITEMS, "tokens": TOKENS,
                   "warm_up_steps": WARM, "steps": STEPS, "peak_flops": PEAK},
    }  # fmt: skip
    if not args.tiny:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
