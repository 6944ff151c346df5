"""Memory, disks and clocks of the nodes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.preflight import ML

HEAP = ML + "jvm_heap_memory_threshold"
NATIVE = ML + "native_memory_threshold"
BREAKS = "/_plugins/_ml/stats/ml_circuit_breaker_trigger_count"  # all statistics would read system indices, which warns
ML_DISK = ML + "disk_free_space_threshold"
WATERMARK = "cluster.routing.allocation.disk.watermark."
SINGLE = WATERMARK + "enable_for_single_data_node"
OFF = 100  # a threshold in percent that is never passed
SKEW_S, MOST_SKEW_S = 2.0, 60.0
UNITS = {"b": 0, "k": 1, "kb": 1, "m": 2, "mb": 2, "g": 3, "gb": 3, "t": 4, "tb": 4, "p": 5, "pb": 5}

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")


def check_breakers(subject: Subject) -> Iterator[CheckResult]:
    """Compare each node's memory with the thresholds at which ML Commons refuses to score."""
    heap = float(subject.settings.get(HEAP, 85))
    full = [
        f"{node.get('name')} ({used} %)" for node in subject.stats.values()
        if (used := node.get("jvm", {}).get("mem", {}).get("heap_used_percent", 0)) > heap and heap < OFF
    ]  # fmt: skip
    if full:
        yield CheckResult(
            "problem",
            f"more than {heap:g} % of the Java heap is used on {', '.join(full)}: ML Commons refuses to score there, "
            "and searches keep their first-stage order",
            f"give the nodes more heap, undeploy models that no pipeline uses, or raise {HEAP}",
        )
    refused = {
        subject.name_of(node_id): int(node.get("ml_circuit_breaker_trigger_count", 0))
        for node_id, node in subject.cluster.read("GET", BREAKS).get("nodes", {}).items()
    }
    if counts := [f"{name} ({count:,})" for name, count in sorted(refused.items()) if count]:
        yield CheckResult(
            "warning",
            f"ML Commons has refused requests for lack of memory or disk since the node started: {', '.join(counts)}",
            "see the problems and warnings beside this one, and the node's log",
        )
    elif not full:
        native, limit = _most(subject.stats, "os", "mem", "used_percent"), subject.settings.get(NATIVE, 90)
        yield CheckResult(
            "ok",
            f"at most {_most(subject.stats, 'jvm', 'mem', 'heap_used_percent')} % of the Java heap is used (threshold "
            f"{heap:g} %), and {native} % of the memory (threshold {limit} %, which ML Commons does not enforce); no "
            "request was refused",
        )


def check_disk(subject: Subject) -> Iterator[CheckResult]:
    """Compare each node's free space with the watermarks, and with what ML Commons requires."""
    settings, found = subject.settings, False
    needed = parse_size(settings.get(ML_DISK, "5gb"))
    watermarks: tuple[str, ...] = ("flood_stage", "high", "low")
    if len(subject.stats) == 1 and str(settings.get(SINGLE, False)).lower() != "true":
        watermarks = ("flood_stage",)  # the others move shards to other nodes
    for node in subject.stats.values():
        disks = [disk for disk in node.get("fs", {}).get("data", ()) if disk.get("total_in_bytes")]
        for disk in disks:
            free, total = int(disk["available_in_bytes"]), int(disk["total_in_bytes"])
            where = f"{_gigabytes(free)} of {_gigabytes(total)} are free on node {node.get('name')}"
            if needed is not None and free < needed:
                found = True
                yield CheckResult(
                    "problem",
                    f"{where}, but ML Commons requires {settings.get(ML_DISK)}: it refuses to load and to score",
                    f"free disk space, or lower {ML_DISK}",
                )
            passed = [name for name in watermarks if _is_passed(settings, name, free, total)]
            if passed:
                found = True
                flooded = passed[0] == "flood_stage"
                yield CheckResult(
                    "problem" if flooded else "warning",
                    f"{where}: past the watermark {passed[0]} ({settings.get(WATERMARK + passed[0])}), at which "
                    + ("indices become read-only" if flooded else "the node gets no more shards"),
                    "free disk space, for example by deleting old backing indices of the OOD data stream",
                )
    if not found:
        yield CheckResult(
            "ok", f"every disk is below the watermarks, with the {settings.get(ML_DISK)} of ML Commons free"
        )


def check_clock(subject: Subject) -> Iterator[CheckResult]:
    """Compare each node's clock with this machine's; what the request itself takes cannot be told from a difference."""
    before = time.time()
    nodes: Mapping[str, Any] = subject.cluster.read("GET", "/_nodes/stats/process").get("nodes", {})
    after = time.time()
    clocks = {str(node.get("name")): node["timestamp"] / 1000 for node in nodes.values() if "timestamp" in node}
    yield from compare_clocks(clocks, before, after)


def compare_clocks(clocks: Mapping[str, float], before: float, after: float) -> Iterator[CheckResult]:
    """Compare times that nodes gave between two times of this machine, all in seconds since 1970."""
    skews = {name: min(0.0, told - before) + max(0.0, told - after) for name, told in clocks.items()}
    if not skews:
        yield CheckResult("not checked", "no node gave its time")
        return
    name = max(skews, key=lambda one: abs(skews[one]))
    worst = abs(skews[name])
    if worst <= SKEW_S:
        yield CheckResult(
            "ok", f"the clocks of the nodes and of this machine agree within {worst + after - before:.1f} s"
        )
        return
    yield CheckResult(
        "problem" if worst > MOST_SKEW_S else "warning",
        f"the clock of node {name} is {worst:.0f} s {'ahead of' if skews[name] > 0 else 'behind'} this machine's: OOD "
        "records and releases get wrong times",
        "synchronise the clocks with NTP, on this machine and on the nodes",
    )


def parse_size(value: object) -> int | None:
    """Read OpenSearch's notation of a size in bytes, such as ``5gb``; None if it is none."""
    text = str(value).strip().lower()
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in UNITS:
        return int(text) if text.isdecimal() else None
    return int(float(match[1]) * 1024 ** UNITS[match[2]])


def _is_passed(settings: Mapping[str, Any], name: str, free: int, total: int) -> bool:
    """Whether a disk is past a watermark: a share of it that is used, or bytes that are free."""
    if str(settings.get("cluster.routing.allocation.disk.threshold_enabled", True)).lower() == "false":
        return False
    limit = str(settings.get(WATERMARK + name, "")).strip()
    if limit.endswith("%"):
        return 100 * (total - free) / total > float(limit[:-1])
    size = parse_size(limit)
    if size is not None and not limit.isdecimal():
        return free < size
    try:
        return (total - free) / total > float(limit)
    except ValueError:
        return False


def _most(stats: Mapping[str, Any], *way: str) -> int:
    found: list[int] = [0]
    for node in stats.values():
        for step in way:
            node = node.get(step, {}) if isinstance(node, Mapping) else {}
        found.append(node if isinstance(node, int) else 0)
    return max(found)


def _gigabytes(size: int) -> str:
    return f"{size / 1024**3:,.1f} GB"
