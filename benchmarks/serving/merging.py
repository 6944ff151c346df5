"""What micro-batches across requests would gain: eight clients with five documents each, merged or in turns.

In turns, eight threads score at once on one scorer, as the service lets them; merged, one call reads the documents of
all eight together. Three arms: pairs in fp32, which ``score_many`` merges; and cold item states in fp32 and int8, whose
queries are encoded in one pass and whose items in shared batches before each query meets its own. Both ways score the
same eight searches, in shuffled order; nothing is kept from one round to the next. A ratio is the geometric mean over
rounds, with its 95 % bootstrap interval. Merged, no client is answered before all are.

    DARL_DATA=… python -m benchmarks.serving.merging --rounds 20
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import choose_out, describe_machine, ratio, spread, write_result
from benchmarks.serving.sample import find_data, make_bundle, read_texts
from darl_opensearch.bundle import Bundle
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore

RESULT = Path(__file__).parent / "results" / "merging.json"
CLIENTS, DOCUMENTS = 8, 5
ARMS = {
    "pairs, fp32": (False, False),
    "item states, fp32, cold": (False, True),
    "item states, int8, cold": (True, True),
}
Searches = Sequence[tuple[str, list[str]]]


def score_in_turns(scorer: Scorer, searches: Searches) -> list[float]:
    """Score searches from threads that begin at once; gives each one's seconds."""
    seconds, barrier = [0.0] * len(searches), threading.Barrier(len(searches) + 1)

    def score(place: int) -> None:
        barrier.wait()
        started = time.perf_counter()
        scorer.score(*searches[place])
        seconds[place] = time.perf_counter() - started

    threads = [threading.Thread(target=score, args=(place,)) for place in range(len(searches))]
    for thread in threads:
        thread.start()
    barrier.wait()
    for thread in threads:
        thread.join()
    return seconds


def score_merged(scorer: Scorer, searches: Searches) -> list[float]:
    """Score searches in one call; all are answered at its end."""
    started = time.perf_counter()
    if scorer.halves is None:
        scorer.score_many(searches)
    else:
        _score_states_merged(scorer, searches)
    return [time.perf_counter() - started] * len(searches)


def _score_states_merged(scorer: Scorer, searches: Searches) -> None:
    """Encode queries in one pass and items in shared batches, then let each query meet its own items."""
    half: Any = scorer.halves
    if not scorer.int8:  # in int8 a pass reads one text
        encode_queries(half, [query for query, _ in searches])
    with StateStore(None) as store:
        forgetful, half.store = half.store, store
        try:
            half.fill({half.keys.of(text): text for _, texts in searches for text in texts})
            for query, texts in searches:
                half.score(query, texts)
        finally:
            half.store = forgetful


def encode_queries(half: Any, queries: Sequence[str]) -> None:
    """Encode queries in one pass, and leave them where the scorer looks for those it knows."""
    sequences = [half._tokens.query(query) for query in queries]
    states, pooled = half._run_encoder(sequences)
    run_encoder = half._run_encoder
    try:
        for row, (query, sequence) in enumerate(zip(queries, sequences, strict=True)):
            rows = states[row : row + 1, : len(sequence.ids)], pooled[row : row + 1]
            half._run_encoder = lambda _, rows=rows: rows
            half.encode_query(query)
    finally:
        half._run_encoder = run_encoder


def measure_arm(
    bundle: Bundle, draw: Callable[[], Searches], rounds: int, seed: int, *, int8: bool, states: bool
) -> dict[str, Any]:
    """Score the same searches both ways, in shuffled order."""
    ways = {"in_turns": score_in_turns, "merged": score_merged}
    after: dict[str, list[float]] = {way: [] for way in ways}
    client: dict[str, list[float]] = {way: [] for way in ways}
    order = random.Random(seed)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(StateStore(None, memory_bytes=0)) if states else None
        scorer = stack.enter_context(Scorer.open(bundle, int8=int8, states=store))
        for number in range(rounds + 1):
            searches = draw()
            for way in order.sample(sorted(ways), len(ways)):
                # Another query each time: the latest ones are known.
                started = time.perf_counter()
                seconds = ways[way](scorer, [(f"{query} {way}", texts) for query, texts in searches])
                if number:  # the first round warms up
                    after[way].append(1000 * (time.perf_counter() - started))
                    client[way].append(1000 * float(np.mean(seconds)))
    return {
        **{f"{way}_ms": spread(values) for way, values in after.items()},
        **{f"{way}_client_ms": spread(values) for way, values in client.items()},
        "in_turns_over_merged": [round(value, 3) for value in ratio(after["in_turns"], after["merged"], seed)],
    }


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.merging", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of an arm, both ways (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of documents and the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(Path(scratch), args.bundle)
        items, queries, _ = read_texts(folder, bundle.tokenizer)
        choose = random.Random(args.seed)

        def draw() -> Searches:
            return [(query, choose.sample(items, DOCUMENTS)) for query in choose.sample(queries, CLIENTS)]

        arms = {
            name: measure_arm(bundle, draw, args.rounds, args.seed, int8=int8, states=states)
            for name, (int8, states) in ARMS.items()
        }
    result = {
        "clients": CLIENTS, "documents": DOCUMENTS, "rounds": args.rounds, "seed": args.seed,
        **describe_machine("onnxruntime"), "arms": arms,
    }  # fmt: skip
    write_result(out, result)
    for name, row in arms.items():
        print(
            f"{name:<26} in turns {row['in_turns_ms']['p50']:8.1f} ms, merged {row['merged_ms']['p50']:8.1f}; "
            f"a client {row['in_turns_client_ms']['p50']:8.1f} and {row['merged_client_ms']['p50']:8.1f}; "
            f"in turns, times merged: {row['in_turns_over_merged']}"
        )


if __name__ == "__main__":
    main()
