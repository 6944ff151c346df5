"""Serving beside its peers: the same texts, the same model shape and the same threads, each engine in its own process.

Every engine opens its model once, in a process of its own; one at a time then scores a search, in shuffled rounds, and
all of them score the same searches. Workloads:

- ``cold``: 100 items that no engine has seen, drawn evenly;
- ``warm``: 100 items by Zipf's law, after every item was seen once by the engines that keep what they computed;
- ``thousand``: one query with 1,000 items, by engines that keep and engines that do not.

``--grid`` measures ours alone, by passes side by side and threads of a pass: two passes of one thread, as a scorer has
them, and the other shapes, which nothing but this benchmark can set.

Texts are ESCI products of ``DARL_DATA``. Engines: this project on pairs and on item states; ONNX Runtime and OpenVINO
in their best plain loops; sentence-transformers' CrossEncoder, fastembed and FlashRank; MultiVectorEncoder of
sentence-transformers, with its own similarity and with maxsim-cpu, which keep embeddings of items as this project
keeps states. Peers' heads are random: only speed is compared. ``--peers-python`` names the interpreter of an
environment of ``requirements/peers-serving.txt``; without it only this project and ONNX Runtime are measured. PyLate
is left out: it needs sentence-transformers 5.3, and 6.2 has its model as MultiVectorEncoder.

A ratio is the geometric mean, over searches, of an engine's time over that of one of ours, with its 95 % bootstrap
interval. ``gemm_share`` is what an engine's linear layers did a second in ``cold``, over the best rate of a plain
matrix product of ONNX Runtime in the same precision and the same rounds.

    DARL_DATA=… python -m benchmarks.serving.peers --peers-python .venv-peers-serving/bin/python --rounds 6
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import choose_out, describe_machine, memory_mib, ratio, spread, write_result, zipf_shares
from benchmarks.serving.peer_engines import CHECKPOINT, FP32, INT8
from benchmarks.serving.peer_models import open_tokenizer, write_models
from benchmarks.serving.roof import GOP_OF_A_TOKEN, Gemm
from benchmarks.serving.sample import ITEMS, find_data, read_texts
from darl_opensearch.stats.numbers import round_figure

RESULT = Path(__file__).parent / "results" / "peers.json"
ROOT = Path(__file__).parents[2]
CALIBRATION = 60  # pairs that NNCF sees
PLAIN, COLD, WARM = ("cold", "warm", "thousand"), ("cold", "thousand"), ("warm", "thousand")
REFERENCE = {
    "cold": "item states, int8, cold",
    "warm": "item states, int8, warm",
    "thousand": "item states, int8, warm",
}


@dataclass(frozen=True)
class Engine:
    """An engine and what it is measured on.

    :param opener: of ``peer_engines.OPEN``.
    :param workloads: an engine that keeps items is not measured cold.
    :param precision: of its matrix products; empty: without a roof.
    :param splits: whether query and items are read apart, and not as pairs.
    """

    name: str
    opener: str
    options: dict[str, Any]
    workloads: tuple[str, ...] = PLAIN
    precision: str = ""
    splits: bool = False
    peers: bool = field(default=True)  # runs in the peers' Python


def _ours(name: str, workloads: tuple[str, ...], *, int8: bool, states: str) -> Engine:
    options = {"int8": int8, "states": states}
    return Engine(name, "ours", options, workloads, "int8" if int8 else "fp32", bool(states), peers=False)


ENGINES = (
    _ours("pairs, int8", PLAIN, int8=True, states=""),
    _ours("item states, fp32, cold", COLD, int8=False, states="forgotten"),
    _ours("item states, int8, cold", COLD, int8=True, states="forgotten"),
    _ours("item states, fp32, warm", WARM, int8=False, states="kept"),
    _ours("item states, int8, warm", WARM, int8=True, states="kept"),
    Engine("ONNX Runtime, fp32", "onnxruntime", {"graph": FP32, "budget": 512}, PLAIN, "fp32", peers=False),
    Engine("ONNX Runtime, int8", "onnxruntime", {"graph": INT8, "budget": 512}, PLAIN, "int8", peers=False),
    Engine("ONNX Runtime, int8, one by one", "onnxruntime", {"graph": INT8, "budget": 1}, PLAIN, "int8", peers=False),
    Engine("OpenVINO, fp32", "openvino", {"int8": False, "budget": 512}, PLAIN, "fp32"),
    Engine("OpenVINO, int8", "openvino", {"int8": True, "budget": 512}, PLAIN, "int8"),
    Engine("CrossEncoder, default", "cross-encoder", {}, PLAIN, "fp32"),
    # In our Python, with sentence-transformers 5: optimum-onnx needs transformers 4, release 6 needs transformers 5.
    Engine("CrossEncoder, ONNX, fp32", "cross-encoder-onnx", {"graph": FP32}, PLAIN, "fp32", peers=False),
    Engine("CrossEncoder, ONNX, int8", "cross-encoder-onnx", {"graph": INT8}, PLAIN, "int8", peers=False),
    Engine("CrossEncoder, OpenVINO, fp32", "cross-encoder-openvino", {}, PLAIN, "fp32"),
    # Many times slower than fp32 where the CPU has no instructions for it: once is enough.
    Engine("CrossEncoder, bf16", "cross-encoder", {"bf16": True}, ("cold",)),
    Engine("fastembed, fp32, one by one", "fastembed", {"graph": FP32}, PLAIN, "fp32"),
    Engine("fastembed, int8, one by one", "fastembed", {"graph": INT8}, PLAIN, "int8"),
    Engine("FlashRank, fp32", "flashrank", {"graph": FP32}, PLAIN, "fp32"),
    Engine("FlashRank, int8", "flashrank", {"graph": INT8}, PLAIN, "int8"),
    Engine("MultiVectorEncoder, cold", "multi-vector", {"kept": False}, COLD, "fp32", splits=True),
    Engine("MultiVectorEncoder, warm", "multi-vector", {"kept": True}, WARM),
    Engine("MultiVectorEncoder and maxsim-cpu, warm", "multi-vector", {"kept": True, "maxsim_cpu": True}, WARM),
)

SHAPES = {"1 pass of 2 threads": (1, 2), "2 passes of 2 threads": (2, 2)}  # beside two passes of one thread


def _shape(engine: Engine, shape: str) -> Engine:
    passes, inside = SHAPES[shape]
    return dataclasses.replace(
        engine, name=f"{engine.name}; {shape}", options={**engine.options, "passes": passes, "inside": inside}
    )


_STATES = tuple(
    dataclasses.replace(engine, workloads=tuple(name for name in engine.workloads if name != "thousand"))
    for engine in ENGINES
    if engine.opener == "ours" and engine.splits
)
GRID = (*_STATES, *(_shape(engine, shape) for engine in _STATES for shape in SHAPES))


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    :param items: that are kept warm.
    :param shown: items of a search that is cold or warm.
    :param many: items of a search of ``thousand``.
    :param searches: cold, and warm, of an engine and a round.
    """

    items: int
    shown: int
    many: int
    rounds: int
    searches: int


@dataclass(frozen=True)
class Search:
    """A query and the items that are scored for it, by number."""

    query: str
    items: list[int]


class Worker:
    """The process of one engine."""

    def __init__(self, engine: Engine, python: str, work: Path, threads: int) -> None:
        spec = {"name": engine.opener, "options": engine.options, "work": str(work), "threads": threads}
        self._log, self.cpu_s = work / f"{engine.name.replace(' ', '-')}.log", 0.0
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.serving.peer_worker", json.dumps(spec)], cwd=ROOT, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        started = time.perf_counter()
        self.versions: dict[str, str] = self._answer()["versions"]
        self.open_s = time.perf_counter() - started

    def score(self, search: Search) -> float:
        """Score a search; gives its milliseconds."""
        if self._process.stdin is None:
            raise SystemExit("the engine has no input")
        self._process.stdin.write(json.dumps({"query": search.query, "items": search.items}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.cpu_s += answer["cpu_s"]
        return float(answer["ms"])

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"an engine ended:\n{self._log.read_text(encoding='utf-8')[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def describe(self) -> dict[str, float]:
        """Tell how long it took to open, and its memory now."""
        whole, anonymous = memory_mib(self._process.pid)
        return {
            "open_s": round(self.open_s, 2), "rss_mib": round(whole, 1), "rss_anon_mib": round(anonymous, 1),
        }  # fmt: skip

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def draw_searches(
    rng: np.random.Generator, queries: Sequence[str], items: int, sizes: Sizes
) -> list[dict[str, list[Search]]]:
    """Draw the searches of all rounds, by workload; every one has another query."""
    shares, order, numbers = zipf_shares(items), rng.permutation(len(queries)), itertools.count()

    def draw(size: int, drawn_by: Any = None) -> Search:
        turn, place = divmod(next(numbers), len(queries))
        query = queries[order[place]] + f" {turn}" * (turn > 0)
        return Search(query, rng.choice(items, min(size, items), replace=False, p=drawn_by).tolist())

    return [
        {
            "cold": [draw(sizes.shown) for _ in range(sizes.searches)],
            "warm": [draw(sizes.shown, shares) for _ in range(sizes.searches)],
            "thousand": [draw(sizes.many)],
        }
        for _ in range(sizes.rounds)
    ]


@contextlib.contextmanager
def open_workers(
    engines: Sequence[Engine], peers_python: str, work: Path, threads: int, items: int, shown: int
) -> Iterator[dict[str, Worker]]:
    """Open all engines, one after another, and show every item to those that are measured warm."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for engine in engines:
            worker = Worker(engine, peers_python if engine.peers else sys.executable, work, threads)
            stack.callback(worker.close)
            for start in range(0, items if set(engine.workloads) <= set(WARM) else shown, shown):
                worker.score(Search("warm up", list(range(start, min(start + shown, items)))))
            workers[engine.name] = worker
            print(f"{engine.name} is open", file=sys.stderr, flush=True)
        yield workers


def run(
    folder: Path,
    sizes: Sizes,
    everything: Sequence[Engine],
    *,
    bundle: Path | None,
    peers_python: str,
    only: str,
    without: str,
    threads: int,
    seed: int,
) -> dict[str, Any]:
    """Measure all engines."""
    engines = [engine for engine in everything if (peers_python or not engine.peers) and only in engine.name]
    engines = [engine for engine in engines if not (without and without in engine.name)]
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_models(work, bundle)
        tokenizer = open_tokenizer(work / CHECKPOINT / "tokenizer.json")
        texts, queries, tokens = read_texts(folder, tokenizer, sizes.items)
        calibration = queries[:CALIBRATION]
        (work / "texts.json").write_text(json.dumps({"items": texts, "calibration": calibration}), encoding="utf-8")
        rounds_drawn = draw_searches(rng, queries, len(texts), sizes)
        gemms = {name: Gemm(threads, int8=name == "int8", seed=seed) for name in ("fp32", "int8")}
        roofs = dict.fromkeys(gemms, 0.0)
        times: dict[str, dict[str, list[float]]] = {
            workload: {engine.name: [] for engine in engines if workload in engine.workloads} for workload in PLAIN
        }
        with open_workers(engines, peers_python, work, threads, len(texts), sizes.shown) as workers:
            cpu, busy, started = _cpu_of(workers), _busy_seconds(), time.perf_counter()
            for number, drawn in enumerate(rounds_drawn):
                roofs = {name: max(roofs[name], gemm.measure()) for name, gemm in gemms.items()}
                for workload in rng.permutation([name for name, rows in times.items() if rows]).tolist():
                    for name in rng.permutation(list(times[workload])).tolist():
                        times[workload][name] += [workers[name].score(search) for search in drawn[workload]]
                print(f"round {number + 1} of {sizes.rounds}", file=sys.stderr, flush=True)
            foreign = _busy_seconds() - busy - (_cpu_of(workers) - cpu)
            seconds = time.perf_counter() - started
            versions = {"peers" if engine.peers else "ours": workers[engine.name].versions for engine in engines}
            start = {name: worker.describe() for name, worker in workers.items()}
    cold = [search for drawn in rounds_drawn for search in drawn["cold"]]
    shares = {
        engine.name: _gemm_share(engine, times["cold"][engine.name], cold, texts, tokenizer, roofs)
        for engine in engines
        if engine.precision and "cold" in engine.workloads
    }
    return {
        **dataclasses.asdict(sizes), "items": len(texts), "mean_tokens_of_a_pair": round(tokens, 1), "zipf": 1.0,
        "seed": seed, "threads": threads, **describe_machine(), "versions": versions,
        "foreign_cores": round(foreign / seconds, 3),
        "gemm_gops": {name: round(rate, 1) for name, rate in roofs.items()}, "gemm_share": shares,
        "start": start,
        "workloads": {workload: _compare(rows, engines, seed) for workload, rows in times.items() if rows},
    }  # fmt: skip


def _compare(rows: dict[str, list[float]], engines: Sequence[Engine], seed: int) -> dict[str, Any]:
    """Summarise a workload: milliseconds of each engine, and its times over those of each of ours."""
    ours = [engine.name for engine in engines if engine.opener == "ours" and engine.name in rows]
    summary = {}
    for name, values in rows.items():
        ratios = {}
        for base in ours:
            ratios[base] = [round_figure(value) for value in ratio(values, rows[base], seed)]
        summary[name] = {"ms": spread(values), "times_ours": ratios}
    return summary


def _gemm_share(
    engine: Engine, times: Sequence[float], searches: Sequence[Search], texts: Sequence[str], tokenizer: Any,
    roofs: dict[str, float],
) -> float:  # fmt: skip
    """Give the share of the roof that an engine's linear layers reach, in the median over searches."""
    rates = []
    for search, ms in zip(searches, times, strict=True):
        items = [texts[n] for n in search.items]
        pairs: list[Any] = [search.query, *items] if engine.splits else [(search.query, item) for item in items]
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(pairs))
        rates.append(GOP_OF_A_TOKEN * tokens / (ms / 1000))
    return round(float(np.median(rates)) / roofs[engine.precision], 3)


def _cpu_of(workers: dict[str, Worker]) -> float:
    return time.process_time() + sum(worker.cpu_s for worker in workers.values())


def _busy_seconds() -> float:
    """Seconds that all cores have worked since the machine started."""
    user, nice, system = (int(text) for text in Path("/proc/stat").read_text(encoding="utf-8").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def print_tables(result: dict[str, Any]) -> None:
    """Print a table of each workload, fastest first."""
    for workload, rows in result["workloads"].items():
        base = REFERENCE[workload]
        print(f"\n{workload:<42} {'p50':>8} {'p5':>8} {'p95':>8} ms   times {base}")
        for name, row in sorted(rows.items(), key=lambda row: row[1]["ms"]["p50"]):
            ms, ratio = row["ms"], row["times_ours"].get(base)
            line = f"{name:<42} {ms['p50']:8.1f} {ms['p5']:8.1f} {ms['p95']:8.1f}"
            line += "" if ratio is None else "      {:8.2f} ({:.2f} to {:.2f})".format(*ratio)
            if workload == "cold" and name in result["gemm_share"]:
                line += f"   {100 * result['gemm_share'][name]:.0f} % of the GEMM roof"
            print(line)
    print(f"\nGEMM, GOP/s: {result['gemm_gops']}; cores taken by others: {result['foreign_cores']}")


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.peers", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--peers-python", default="", help="python of requirements/peers-serving.txt (default: no peers)"
    )
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of all engines (default: 6)")
    parser.add_argument("--searches", type=int, default=3, help="searches of an engine and a round (default: 3)")
    parser.add_argument(
        "--items", type=int, default=ITEMS, help="items that are kept warm (default: 4000, at most 6764)"
    )
    parser.add_argument("--shown", type=int, default=100, help="items of a search, cold and warm (default: 100)")
    parser.add_argument("--many", type=int, default=1000, help="items of the largest search (default: 1000)")
    parser.add_argument("--threads", type=int, default=2, help="threads of an engine (default: 2)")
    parser.add_argument("--grid", action="store_true", help="ours, by passes side by side and threads of a pass")
    parser.add_argument("--only", default="", help="engines with this in their name")
    parser.add_argument("--without", default="", help="no engines with this in their name, such as bf16")
    parser.add_argument("--seed", type=int, default=0, help="of searches and of the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT.with_stem("threads") if args.grid else RESULT)
    sizes = Sizes(args.items, args.shown, args.many, args.rounds, args.searches)
    result = run(
        folder, sizes, GRID if args.grid else ENGINES, bundle=args.bundle,
        peers_python=args.peers_python, only=args.only, without=args.without, threads=args.threads, seed=args.seed,
    )  # fmt: skip
    write_result(out, result)
    print_tables(result)
    if not args.peers_python and not args.grid:
        print("without --peers-python, rows of peers other than ONNX Runtime are left out")


if __name__ == "__main__":
    main()
