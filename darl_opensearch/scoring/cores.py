"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = _QUOTA) -> int:
    """Count the cores of this process: its affinity, and its container's quota (cgroup v2).

    A container with two cores' quota on a 64-core host sees 64 in ``os.cpu_count()``; as many threads
    would be throttled to a crawl.

    :param quota_file: where the quota is written.
    :return: at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2, or "max": no quota
    return max(1, cores)
