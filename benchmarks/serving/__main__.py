"""All serving benchmarks, one after another on one bundle, and the page that shows them.

    DARL_DATA=… python -m benchmarks.serving --peers-python PYTHON --name amx

With a name, results go beside those of other machines, as ``results/peers-amx.json``; without one they take the place
of results of the same processor. ``cluster`` needs what ``darl node up`` needs; ``--only`` chooses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving import report
from benchmarks.serving.sample import find_data, make_bundle

RUNS: dict[str, tuple[str, list[str]]] = {
    "peers": ("peers", ["--rounds", "3", "--without", "bf16"]),
    "threads": ("peers", ["--grid", "--rounds", "3"]),
    "profile": ("profile", []),
    "http": ("http", ["--rounds", "5"]),
    "http-int8": ("http", ["--rounds", "5", "--int8"]),
    "growth": ("growth", ["--states", "10000", "100000", "1000000"]),
    "pooling": ("pooling", []),
    "load": ("load", ["--seconds", "20", "--rounds", "2"]),
    "load-int8": ("load", ["--seconds", "20", "--rounds", "2", "--int8"]),
    "batching": ("batching", []),
    "merging": ("merging", []),
    "cluster": ("cluster", ["--rounds", "3"]),
}


def list_commands(demo: Path, names: Sequence[str], suffix: str, peers_python: str) -> dict[str, list[str]]:
    """List the commands of the chosen benchmarks, by name.

    :param demo: folder with ``run`` and ``bundle``.
    :param suffix: of the results' names, but for ``pooling``, which times nothing; empty: none.
    """
    commands = {}
    for name in names:
        module, options = RUNS[name]
        words = [sys.executable, "-m", f"benchmarks.serving.{module}"]
        words += [str(demo)] if module == "pooling" else ["--bundle", str(demo / "bundle")]
        words += options + (["--peers-python", peers_python] if name == "peers" and peers_python else [])
        words += ["--out", str(report.RESULTS / f"{name}-{suffix}.json")] if suffix and name != "pooling" else []
        commands[name] = words
    return commands


def main() -> int:
    """Run all that was chosen, and show it; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="what is run (default: all)")
    parser.add_argument("--demo", type=Path, help="what darl demo leaves: run and bundle (default: trained)")
    parser.add_argument("--peers-python", default="", help="python of requirements/peers-serving.txt")
    parser.add_argument("--name", default="", help="of this machine, in the results' names")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    args = parser.parse_args()
    find_data(parser)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        demo = args.demo or Path(scratch)
        if not args.demo and not args.dry_run:
            make_bundle(demo)
        for name, words in list_commands(demo.absolute(), args.only, args.name, args.peers_python).items():
            print(" ".join(words), file=sys.stderr, flush=True)
            if not args.dry_run and subprocess.run(words, check=False).returncode:
                failed.append(name)
    if not args.dry_run:
        report.refresh()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
