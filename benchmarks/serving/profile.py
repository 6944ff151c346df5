"""Where the time of a search of 100 items goes, to the last millisecond: warm, from disk and cold, in fp32 and int8.

A request is parsed, scored and answered as ``darl serve`` does it, without the socket, on one thread, so that parts do
not overlap and add up to the whole. Items are ESCI products of ``DARL_DATA``. Parts are timed in requests of their own;
what a graph's nodes take is their share of ONNX Runtime's profile, in further requests, of the graph's time without it.

Nodes of ``meet.onnx`` are told apart by what they lead to: the columns of the detector, those of the grades, or the
score. Beside that, requests are scored in turns with a graph of the score alone and no OOD part of the halves; a ratio
is the geometric mean over requests, with its 95 % bootstrap interval.

    DARL_DATA=… python -m benchmarks.serving.profile --rounds 20
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.measuring import choose_out, describe_machine, ratio, spread, write_result
from benchmarks.serving.http import Request, Requests
from benchmarks.serving.roof import GOP_OF_A_TOKEN, Gemm
from benchmarks.serving.sample import find_data, make_bundle, read_texts
from darl_opensearch.bundle import Bundle
from darl_opensearch.scoring import Scorer, halves
from darl_opensearch.scoring.halves import HalfScorer
from darl_opensearch.scoring.runtime import open_session
from darl_opensearch.server.wire import parse_request, render_response
from darl_opensearch.states import ItemState, StateStore

RESULT = Path(__file__).parent / "results" / "profile.json"
SHOWN, ITEMS = 100, 2000
PATHS = ("warm", "warm, from disk", "cold")
PRODUCTS = ("MatMul", "Gemm", "Attention", "MultiHeadAttention")  # and what begins or ends so
QUERY, ITEMS_READ, MEET, SIDES = "query: encoder", "items: encoder", "meet.onnx", "OOD parts of query and items"
SCORE, GRADES, OOD, KERNELS = "head", "grade probabilities", "OOD columns", "kernels and maxima"
SIMILARITIES, WEIGHTS = "similarities of tokens", "query weights, cosine"


@dataclass
class Clock:
    """Adds up the seconds of parts; wrapped functions are leaves, so that none is counted twice."""

    parts: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function."""

        @functools.wraps(work)
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self.parts[name] += time.perf_counter() - started

        return call


class TimedSession:
    """A session whose runs are timed; those of the main thread are the query's."""

    def __init__(self, session: Any, clock: Clock, name: str, name_of_main: str = "") -> None:
        self.session, self._main = session, clock.timed(name_of_main or name, session.run)
        self._other = clock.timed(name, session.run)

    def run(self, outputs: Any, inputs: Mapping[str, Any]) -> Any:
        """Run the session."""
        on_main = threading.current_thread() is threading.main_thread()
        return (self._main if on_main else self._other)(outputs, inputs)


class ScoreAlone:
    """A session of ``meet.onnx`` cut to its first column."""

    def __init__(self, meet: Path, folder: Path) -> None:
        graph = onnx.load(meet).graph
        score = graph.node[-1].input[0]  # the last node joins score, grades and OOD columns
        wanted = {name for node in _lead_to(graph, score) for name in node.input}
        inputs = [value.name for value in graph.input if value.name in wanted]
        path = folder / f"score-{meet.name}"
        onnx.utils.extract_model(str(meet), str(path), inputs, [score])
        self._inputs, self._session = inputs, open_session(path, "cpu").session

    def run(self, outputs: Any, inputs: Mapping[str, Any]) -> Any:
        """Run the session on the inputs that it has."""
        return self._session.run(outputs, {name: inputs[name] for name in self._inputs})


def _lead_to(graph: Any, *names: str) -> list[Any]:
    """List the nodes that some values are computed from."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting, found = list(names), dict[str, Any]()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            waiting += node.input
    return list(found.values())


def group_meet(graph: Any) -> dict[str, str]:
    """Group the nodes of the optimised ``meet.onnx`` by what they are for.

    :return: group by name of a node.
    """
    last = next(node for node in graph.node if "scores" in node.output)
    if last.op_type != "Concat" or len(last.input) != 3:
        raise SystemExit("meet.onnx does not end by joining score, grades and OOD columns: this script must follow")
    score, grades, ood = ({node.output[0] for node in _lead_to(graph, name)} for name in last.input)
    users = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    product = next(node for node in graph.node if "MatMulInteger" in node.op_type)
    similarities = {product.output[0]}
    while len(next_nodes := [user for name in product.output for user in users[name]]) == 1:
        (product,) = next_nodes
        similarities.add(product.output[0])
    after_products = _follow(users, product)
    after_head = {n for node in graph.node if node.name.startswith("/head/") for n in _follow(users, node)}
    groups = {}
    for node in graph.node:
        made = node.output[0]
        if made in ood and made not in score | grades:
            group = OOD
        elif made in grades and made not in score:
            group = GRADES
        elif node.name.startswith("/head/") or made in after_head:
            group = SCORE
        elif made in similarities:
            group = SIMILARITIES
        else:
            group = KERNELS if made in after_products else WEIGHTS
        groups[node.name] = group
    groups[last.name] = "joining the columns"
    return groups


def _follow(users: Mapping[str, Sequence[Any]], node: Any) -> set[str]:
    """Give the first outputs of the nodes that read a node, directly or not."""
    waiting, found = [node], set[str]()
    while waiting:
        for user in (user for name in waiting.pop().output for user in users.get(name, ())):
            if user.output[0] not in found:
                found.add(user.output[0])
                waiting.append(user)
    return found


def group_encoder(operator: str) -> str:
    """Group a node of the encoder by its operator."""
    if operator == "DynamicQuantizeMatMul" or operator.startswith("MatMulInteger"):
        return "matrix products, int8"
    if operator.startswith("FusedMatMul") or operator in PRODUCTS:
        return "matrix products, fp32"
    for part, group in {
        "Quantize": "quantising", "Gelu": "activation", "Erf": "activation", "Softmax": "softmax",
        "Normalization": "normalisation", "Transpose": "moving data", "Reshape": "moving data",
    }.items():  # fmt: skip
        if part in operator:
            return group
    return "other nodes"


@contextlib.contextmanager
def profiling(folder: Path) -> Iterator[None]:
    """Let sessions that are opened meanwhile profile their runs, and save their optimised graphs."""
    import onnxruntime

    real, number = onnxruntime.SessionOptions, iter(range(10))

    def make() -> Any:
        options = real()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"profile-{(n := next(number))}")
        options.optimized_model_filepath = str(folder / f"optimised-{n}.onnx")
        return options

    onnxruntime.SessionOptions = make
    try:
        yield
    finally:
        onnxruntime.SessionOptions = real


def read_profile(session: Any, group: Callable[[str, str], str]) -> dict[str, float]:
    """End a session's profile.

    :param group: of a node's name and operator.
    :return: shares of the time of its runs by group; what no node has is ``between nodes``.
    """
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    whole = sum(event["dur"] for event in events if event["name"] == "model_run")
    shares: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            shares[group(name, event["args"]["op_name"])] += event["dur"] / whole
    return {**shares, "between nodes": 1 - sum(shares.values())}


def open_store(path: str, folder: Path) -> StateStore:
    """Open the store of a path: all in memory, all on disk, or nothing kept."""
    on_disk = path == "warm, from disk"
    return StateStore(folder if on_disk else None, memory_bytes=(1 << 32) * (path == "warm"))


def time_parts(scorer: Scorer, clock: Clock) -> None:
    """Let a scorer's parts be timed."""
    half = scorer.halves
    half._encode = TimedSession(half._encode, clock, ITEMS_READ, QUERY)  # type: ignore[union-attr]
    half._meet = TimedSession(half._meet, clock, MEET)  # type: ignore[union-attr]
    if half._sides is not None:  # type: ignore[union-attr]
        half._sides = TimedSession(half._sides, clock, SIDES)  # type: ignore[union-attr]
    for owner, name, part in (
        (half.keys, "of", "digests of the texts"), (half.store, "get", "reading states"),  # type: ignore[union-attr]
        (half.store, "put", "keeping new states"), (half._tokens, "query", "tokenising"),  # type: ignore[union-attr]
        (half._tokens, "items", "tokenising"),  # type: ignore[union-attr]
    ):  # fmt: skip
        setattr(owner, name, clock.timed(part, getattr(owner, name)))


@contextlib.contextmanager
def timed_functions(clock: Clock) -> Iterator[None]:
    """Time functions of ``halves`` meanwhile."""
    real = {name: getattr(halves, name) for name in ("stack_states", "pad_batch", "round_states")}
    real_of = ItemState.__dict__["of"]
    names = {"stack_states": "stacking states", "pad_batch": "padding", "round_states": "rounding to eight bits"}
    for name, work in real.items():
        setattr(halves, name, clock.timed(names[name], work))
    ItemState.of = clock.timed(names["round_states"], ItemState.of)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, work in real.items():
            setattr(halves, name, work)
        ItemState.of = real_of  # type: ignore[method-assign]


def answer(scorer: Scorer, request: Request, clock: Clock) -> float:
    """Parse, score and answer a request; gives its seconds."""
    card = scorer.bundle.card
    started = time.perf_counter()
    call = clock.timed("parsing the request", parse_request)(request.body, scale=card.scale, max_documents=SHOWN)
    ranked = scorer.run(call.query, call.documents)
    clock.timed("rendering the answer", render_response)(call, ranked, card, "0" * 32)
    return time.perf_counter() - started


def warm_up(scorer: Scorer, items: Sequence[str], path: str) -> None:
    """Show a scorer every item, or one where nothing is kept."""
    known = items if path != "cold" else items[:SHOWN]
    for start in range(0, len(known), SHOWN):
        scorer.score("warm up", known[start : start + SHOWN])
    scorer.halves.store.flush()  # type: ignore[union-attr]


def measure_parts(scorer: Scorer, requests: Requests, rounds: int) -> tuple[dict[str, float], list[float]]:
    """Time the parts of requests; gives mean milliseconds by part, and the requests' own."""
    clock, totals = Clock(), []
    with timed_functions(clock):
        time_parts(scorer, clock)
        answer(scorer, requests.draw(), clock)
        clock.parts.clear()
        for _ in range(rounds):
            totals.append(1000 * answer(scorer, requests.draw(), clock))
    parts = {name: 1000 * seconds / rounds for name, seconds in clock.parts.items()}
    parts["threads, batches, columns"] = float(np.mean(totals)) - sum(parts.values())
    return parts, totals


def profile_nodes(
    bundle: Bundle, items: Sequence[str], requests: Requests, rounds: int, path: str, folder: Path, *, int8: bool
) -> dict[str, dict[str, float]]:
    """Profile the graphs; gives shares of a graph's time by group of nodes."""
    with profiling(folder), open_store(path, folder / "states") as store:
        scorer = Scorer.open(bundle, int8=int8, threads=1, states=store)  # opens encoder, meet and sides in this order
    encode, meet = scorer.halves._encode, scorer.halves._meet  # type: ignore[union-attr]
    groups = group_meet(onnx.load(folder / "optimised-1.onnx").graph)
    with scorer:
        for _ in range(rounds):
            request = requests.draw()
            scorer.score(request.query, request.documents)
    shares = {
        MEET: read_profile(meet, lambda name, _: groups.get(name, "other nodes")),
        "encoder": read_profile(encode, lambda _, operator: group_encoder(operator)),
    }
    if scorer.halves._sides is not None:  # type: ignore[union-attr]
        scorer.halves._sides.end_profiling()  # type: ignore[union-attr]
    return shares


def compare_with_score_alone(
    whole: Scorer, alone: Scorer, requests: Requests, rounds: int, folder: Path, seed: int
) -> list[float]:
    """Score requests in turns with all columns and with the score alone; gives the ratio and its interval."""
    half: HalfScorer = alone.halves  # type: ignore[assignment]
    meet = alone.bundle.file(alone.bundle.state_files(int8=alone.int8)[0])
    half._meet, half._sides, half._width = ScoreAlone(meet, folder), None, 1
    taken, order = [], np.random.default_rng(seed)
    for _ in range(rounds + 1):
        request, seconds = requests.draw(), [0.0, 0.0]
        for place in order.permutation(2).tolist():
            started = time.perf_counter()
            (whole, alone)[place].halves.score(request.query, request.documents)  # type: ignore[union-attr]
            seconds[place] = time.perf_counter() - started
        taken.append(seconds)
    whole_s, alone_s = np.array(taken[1:]).T
    return [round(value, 4) for value in ratio(whole_s, alone_s, seed)]


def measure_arm(
    bundle: Bundle, items: Sequence[str], requests: Requests, rounds: int, path: str, roof: float, tokens: float,
    seed: int, *, int8: bool,
) -> dict[str, Any]:  # fmt: skip
    """Profile one path in one precision."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)

        def open_scorer(threads: int | None = 1) -> Scorer:
            store = stack.enter_context(open_store(path, folder / "states"))
            scorer = stack.enter_context(Scorer.open(bundle, int8=int8, threads=threads, states=store))
            warm_up(scorer, items, path)
            return scorer

        on_all = open_scorer(None)
        times = [1000 * answer(on_all, requests.draw(), Clock()) for _ in range(rounds + 1)][1:]
        ratio = compare_with_score_alone(open_scorer(), open_scorer(), requests, rounds, folder, seed)
        parts, totals = measure_parts(open_scorer(), requests, rounds)
        nodes = profile_nodes(bundle, items, requests, rounds, path, folder, int8=int8)
    extra = parts[MEET] * (nodes[MEET].get(GRADES, 0.0) + nodes[MEET].get(OOD, 0.0)) + parts.get(SIDES, 0.0)
    whole = float(np.mean(totals))
    encoder = parts.get(ITEMS_READ, 0.0) + parts[QUERY]
    products = sum(share for group, share in nodes["encoder"].items() if group.startswith("matrix products"))
    row = {
        "ms_all_threads": spread(times), "ms": spread(totals), "mean_ms": round(whole, 3),
        "parts_ms": {name: round(ms, 3) for name, ms in sorted(parts.items(), key=lambda part: -part[1])},
        "nodes": {graph: {name: round(share, 4) for name, share in shares.items()} for graph, shares in nodes.items()},
        "grades_and_ood": {
            "ms": round(extra, 3), "share": round(extra / whole, 4),
            "share_with_kernels": round((extra + parts[MEET] * nodes[MEET].get(KERNELS, 0.0)) / whole, 4),
            "all_columns_over_score_alone": ratio,
        },
    }  # fmt: skip
    if path == "cold":
        reached = GOP_OF_A_TOKEN * tokens * SHOWN / (encoder / 1000)
        row["gemm"] = {
            "roof_gops": round(roof, 1), "encoder_share": round(reached / roof, 3),
            "products_share": round(reached / products / roof, 3),
        }  # fmt: skip
    return row


def print_profile(result: dict[str, Any]) -> None:
    """Print the parts of each arm."""
    for name, arm in result["arms"].items():
        print(f"\n{name}: {arm['mean_ms']:.1f} ms on one thread, p50 {arm['ms_all_threads']['p50']:.1f} on all")
        for part, ms in arm["parts_ms"].items():
            print(f"  {part:<32} {ms:9.3f}")
        for graph, shares in arm["nodes"].items():
            print(f"  of {graph}: " + ", ".join(f"{group} {100 * share:.1f} %" for group, share in shares.items()))
        print(f"  grades and OOD: {arm['grades_and_ood']}; {arm.get('gemm', '')}")


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.profile", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=40, help="warm requests of a measurement (default: 40)")
    parser.add_argument("--cold-rounds", type=int, default=5, help="cold requests of a measurement (default: 5)")
    parser.add_argument("--items", type=int, default=ITEMS, help="items to draw from (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of documents and the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT)
    arms = {}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(Path(scratch), args.bundle)
        items, queries, _ = read_texts(folder, bundle.tokenizer, args.items)
        tokens = float(np.mean([len(bundle.tokenizer.encode(text).ids) for text in items]))
        for int8 in (False, True):
            roof = Gemm(1, int8=int8, seed=args.seed).measure()
            for path in PATHS:
                rounds = args.cold_rounds if path == "cold" else args.rounds
                requests = Requests(queries, items, args.seed)
                arms[f"{path}, {'int8' if int8 else 'fp32'}"] = measure_arm(
                    bundle, items, requests, rounds, path, roof, tokens, args.seed, int8=int8
                )
    result = {
        "items": len(items), "shown": SHOWN, "mean_tokens_of_an_item": round(tokens, 1), "rounds": args.rounds,
        "cold_rounds": args.cold_rounds, "seed": args.seed, **describe_machine("onnxruntime", "numpy"), "arms": arms,
    }  # fmt: skip
    write_result(out, result)
    print_profile(result)


if __name__ == "__main__":
    main()
