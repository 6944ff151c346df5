"""How often the gate takes a loss that equals its tolerance for a smaller one, by the number of queries.

``python -m benchmarks.cycle.gate``. Differences with mean 0 are drawn, and the lower end of the gate's 95 % percentile
interval is compared with 0, as it is with the tolerance: the bound promises 2.5 %. Four shapes of differences: normal;
normal with 6 of 10 queries unchanged; many small losses and few large gains; many small gains and few large losses.
Seed 0.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.io.writing import write_file
from darl_opensearch.stats.bootstrap import bootstrap_mean

RESULT = Path(__file__).parent / "results" / "gate.json"
QUERIES, TRIALS, DRAWS, SEED = (5, 10, 20, 30, 50, 100), 4000, 1000, 0
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "6 of 10 unchanged": lambda rng, n: (rng.random(n) < 0.4) * rng.normal(size=n),
    "few large gains": lambda rng, n: rng.exponential(size=n) - 1.0,
    "few large losses": lambda rng, n: 1.0 - rng.exponential(size=n),
}


def false_gains(draw: Draw, queries: int, *, trials: int = TRIALS, draws: int = DRAWS, seed: int = SEED) -> float:
    """Share of trials whose lower bound is above 0 although the mean is 0."""
    rng = np.random.default_rng([seed, queries])
    lows = [bootstrap_mean(draw(rng, queries), draws=draws, seed=trial).low for trial in range(trials)]
    return float(np.mean(np.array(lows) > 0))


def main() -> None:
    """Simulate every shape and number, and write the result."""
    rows = []
    for queries in QUERIES:
        shares = {name: false_gains(draw, queries) for name, draw in SHAPES.items()}
        errors = {name: round(math.sqrt(share * (1 - share) / TRIALS), 4) for name, share in shares.items()}
        rows.append({"queries": queries, "false_gains": shares, "standard_errors": errors})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    result = {"promised": 0.025, "trials": TRIALS, "draws": DRAWS, "seed": SEED, "rows": rows}
    write_file(RESULT, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
