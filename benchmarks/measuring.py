"""What benchmarks share: the machine they run on, memory of a process, spread of times, a result on disk."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from darl_opensearch.errors import UsageError
from darl_opensearch.scoring.cores import available_cores
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.stats.numbers import round_figure

FLAGS = {"avx2": "avx2", "avx512": "avx512f", "vnni": "avx512_vnni avx_vnni", "amx": "amx_tile"}


def describe_machine(*packages: str) -> dict[str, Any]:
    """Describe the processor and the versions of packages; None for one that is not installed."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    fields = dict(line.replace("\t", "").split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    features = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name", platform.processor()).strip(), "cores": available_cores(),
        "flags": {name: not features.isdisjoint(words.split()) for name, words in FLAGS.items()},
        "versions": {name: _version(name) for name in packages},
    }  # fmt: skip


def choose_out(given: Path | None, default: Path, *, int8: bool = False) -> Path:
    """Choose where a result goes, before anything is measured; that of another processor is never written over.

    :param given: None: the default, of int8 with ``-int8`` in its name.
    """
    path = given or (default.with_stem(f"{default.stem}-int8") if int8 else default)
    if path.is_file():
        there, here = json.loads(path.read_text(encoding="utf-8")), describe_machine()
        if any(there.get(name) != here[name] for name in ("processor", "flags")):
            raise SystemExit(
                f"{path} is of another processor ({there.get('processor', 'not named')}). Name another file, which "
                f"the page shows beside it: --out {path.with_stem(f'{path.stem}-NAME')}"
            )
    return path


def data_folder() -> Path:
    """Find the folder of the real judgments, which ``DARL_DATA`` names.

    :raises UsageError: if it is unset, or no folder.
    """
    if not (folder := os.environ.get("DARL_DATA")):
        raise UsageError("DARL_DATA is not set", todo="name the folder of real judgments in it")
    if not Path(folder).is_dir():
        raise UsageError("DARL_DATA names no folder", where=folder, todo="name the folder of real judgments in it")
    return Path(folder)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def memory_mib(pid: int | str = "self") -> tuple[float, float]:
    """Read a process's resident memory, whole and anonymous."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return int(values["VmRSS"]) / 1024, int(values["RssAnon"]) / 1024


def spread(values: Sequence[float]) -> dict[str, float]:
    """Summarise values, at least one, by median and 5th and 95th percentile."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"p50": round_figure(middle), "p5": round_figure(low), "p95": round_figure(high)}  # type: ignore[dict-item]


def ratio(over: ArrayLike, under: ArrayLike, seed: int) -> tuple[float, float, float]:
    """Compare paired positive values: the geometric mean of their ratios, and its 95 % bootstrap interval."""
    logs = bootstrap_mean(np.log(over) - np.log(under), seed=seed)
    return float(np.exp(logs.mean)), float(np.exp(logs.low)), float(np.exp(logs.high))


def zipf_shares(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shares of items in traffic by Zipf's law, the most frequent first."""
    shares = 1.0 / np.arange(1, count + 1, dtype=np.float64)
    return np.asarray(shares / shares.sum())


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a benchmark's JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
