"""What batches of the least cost save beside batches as full as the budget allows: fp32, items that were never seen.

The same searches are scored by one scorer with each way to plan its batches, in shuffled order; nothing is kept from
one search to the next. *As full as allowed* is what a GPU still gets. A ratio is the geometric mean over searches, with
its 95 % bootstrap interval.

    DARL_DATA=… python -m benchmarks.serving.batching --rounds 20
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measuring import choose_out, describe_machine, ratio, spread, write_result
from benchmarks.serving.sample import find_data, make_bundle, read_texts
from darl_opensearch.scoring import Scorer, batching, halves, scorer
from darl_opensearch.states import StateStore

RESULT = Path(__file__).parent / "results" / "batching.json"
DOCUMENTS = (5, 10, 30, 100)
FULL = "as full as allowed"
PASS_TOKENS = (0, 4, 8, 16, 32, 64)
Plan = Callable[..., Any]


def list_plans() -> dict[str, Plan]:
    """List the ways to plan batches, by name."""

    def plan(
        lengths: Sequence[int], *, cost: int | None, pass_tokens: int | None = None, threads: int = 1, **rest: Any
    ) -> Any:
        if pass_tokens is None:  # of meet.onnx, which is not compared
            return batching.plan_batches(lengths, threads=threads, **rest)
        return batching.plan_batches(lengths, pass_tokens=cost, threads=1 if cost is None else threads, **rest)

    plans: dict[str, Plan] = {FULL: functools.partial(plan, cost=None)}
    return plans | {f"a pass costs {cost} tokens": functools.partial(plan, cost=cost) for cost in PASS_TOKENS}


def measure(opened: Scorer, draw: Callable[[int], tuple[str, list[str]]], rounds: int, seed: int) -> dict[str, Any]:
    """Score the same searches with each plan, by number of documents."""
    order, plans, result = random.Random(seed), list_plans(), {}
    for documents in DOCUMENTS:
        times: dict[str, list[float]] = {name: [] for name in plans}
        for number in range(rounds + 1):
            query, texts = draw(documents)
            for name in order.sample(sorted(plans), len(plans)):
                with (
                    mock.patch.object(halves, "plan_batches", plans[name]),
                    mock.patch.object(scorer, "plan_batches", plans[name]),
                ):
                    started = time.perf_counter()
                    opened.score(f"{query} {name}", texts)  # another query each time: the latest ones are known
                    if number:  # the first round warms up
                        times[name].append(1000 * (time.perf_counter() - started))
        result[str(documents)] = {
            name: {"ms": spread(values), "over_full": [round(value, 3) for value in ratio(values, times[FULL], seed)]}
            for name, values in times.items()
        }
    return result


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.batching", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=20, help="searches of a number of documents (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of documents and the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT)
    arms = {}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(Path(scratch), args.bundle)
        items, queries, _ = read_texts(folder, bundle.tokenizer)
        choose = random.Random(args.seed)
        for arm, states in (("pairs", False), ("item states", True)):
            with contextlib.ExitStack() as stack:
                store = stack.enter_context(StateStore(None, memory_bytes=0)) if states else None
                opened = stack.enter_context(Scorer.open(bundle, states=store))
                arms[arm] = measure(
                    opened, lambda count: (choose.choice(queries), choose.sample(items, count)), args.rounds, args.seed
                )
    result = {"rounds": args.rounds, "seed": args.seed, **describe_machine("onnxruntime"), "arms": arms}
    write_result(out, result)
    for arm, sizes in arms.items():
        for documents, rows in sizes.items():
            for name, row in rows.items():
                print(f"{arm:<12} {documents:>4}  {name:<26} {row['ms']['p50']:8.1f} ms  {row['over_full']}")


if __name__ == "__main__":
    main()
