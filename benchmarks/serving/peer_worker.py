"""A process with one engine: reads searches as JSON lines, and answers how long each took.

``benchmarks.serving.peers`` runs it as ``python -m benchmarks.serving.peer_worker ENGINE``, in our Python or the
peers'. The first answer says that the engine is open, and which versions it runs on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.serving.peer_engines import OPEN

PACKAGES = (
    "darl-opensearch", "onnxruntime", "openvino", "nncf", "sentence-transformers", "optimum-onnx", "optimum-intel",
    "transformers", "torch", "fastembed", "flashrank", "maxsim-cpu",
)  # fmt: skip


def main() -> None:
    """Open the engine and answer searches until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    engine = json.loads(sys.argv[1])
    work, threads = Path(engine["work"]), int(engine["threads"])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # some ask for all cores
    items = json.loads((work / "texts.json").read_text(encoding="utf-8"))["items"]
    score = OPEN[engine["name"]](work, threads, **engine["options"])
    answer({"versions": {name: text for name in PACKAGES if (text := _version(name))}})
    for line in sys.stdin:
        search = json.loads(line)
        texts = [items[n] for n in search["items"]]
        started, cpu = time.perf_counter(), time.process_time()
        score(search["query"], texts)
        answer({"ms": 1000 * (time.perf_counter() - started), "cpu_s": time.process_time() - cpu})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
