"""The CPU cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = _QUOTA) -> int:
    """Count the cores that CPU affinity and the container's quota (cgroup v2) allow; at least 1.

    ``os.cpu_count()`` ignores the quota: with one thread per core of the host, a container would be throttled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2, or "max": no quota
    return max(1, cores)
