"""Runs the tutorial as it is written: ``python -m docs.tutorial`` in a temporary folder.

The outputs go to ``tutorial-log.txt`` and into the page's ``text`` blocks. A test runs the page with a tiny model.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE, LOG = HERE / "tutorial.md", HERE / "tutorial-log.txt"
FENCE = re.compile(r"```(sh|python)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", flags=re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code of the page, and the output shown below it."""

    language: str
    code: str
    shown: str | None


def read_blocks(text: str) -> list[Block]:
    """The page's blocks of shell and Python in order, without the first, which installs."""
    return [Block(*match.groups()) for match in FENCE.finditer(text)][1:]


def run_code(language: str, code: str, folder: Path) -> str:
    """Run code in a folder, in a process of its own; gives what it printed to stdout.

    :raises RuntimeError: if it fails.
    """
    here = Path(sys.executable).parent
    start = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    left_out = ("DARL_", "OPENSEARCH_", "PYTHONDONTWRITEBYTECODE")  # without bytecode each process compiles torch anew
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        [*start, code], cwd=folder, capture_output=True, text=True, check=False,
        env=kept | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def processor_time() -> float:
    """Seconds of processor time of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_page(
    text: str, folder: Path, *, replaced: Mapping[str, str] | None = None,
    run: Callable[[str, str, Path], str] = run_code,
    told: Callable[[Block, str, float, float], object] = lambda *_: None,
) -> list[tuple[Block, str]]:  # fmt: skip
    """Run all blocks of the page in order.

    :param replaced: texts of the code, and what stands in their place, besides the folder of the sample.
    :param run: runs the code of a language in a folder; gives what it printed.
    :param told: called after each block with its output, its seconds, and the seconds of processor time in them.
    """
    outputs = []
    sample = {"../examples/insurance": str(HERE.parent / "examples" / "insurance")}
    for block in read_blocks(text):
        start, spent = time.monotonic(), processor_time()
        code = block.code
        for old, new in (sample | dict(replaced or {})).items():
            code = code.replace(old, new)
        output = run(block.language, code, folder)
        told(block, output, time.monotonic() - start, processor_time() - spent)
        outputs.append((block, output))
    return outputs


def main() -> None:
    """Run the page, write the log, and show the outputs in the page."""
    text = PAGE.read_text(encoding="utf-8")
    packages = ("torch", "transformers", "onnxruntime", "numpy")
    lines = [
        f"docs/tutorial.md, run by python -m docs.tutorial on {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"Python {platform.python_version()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores "
        f"(load average {os.getloadavg()[0]:.1f} at the start); "
        + ", ".join(f"{name} {version(name)}" for name in packages),
    ]

    def tell(block: Block, output: str, seconds: float, spent: float) -> None:
        prompt = {"sh": "$ ", "python": ">>> "}[block.language]
        lines.append(f"\n{prompt}{block.code.rstrip()}\n\n{output}({seconds:.1f} s, {spent:.1f} s of processor time)")
        print(f"{seconds:6.1f} s  {block.code.splitlines()[0]}", file=sys.stderr)

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_page(text, Path(folder), told=tell)
    lines.append(f"\nAll: {time.monotonic() - start:.0f} s, {processor_time():.0f} s of processor time")
    LOG.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = iter(output for block, output in outputs if block.shown is not None)
    PAGE.write_text(re.sub(r"```text\n.*?```", lambda _: f"```text\n{next(shown)}```", text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
