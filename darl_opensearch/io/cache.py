"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def find_named_cache() -> Path | None:
    """Return the folder that ``DARL_CACHE`` names, or None."""
    name = os.environ.get("DARL_CACHE")
    return Path(name).expanduser() if name else None


def find_user_cache() -> Path:
    """Return the folder that ``DARL_CACHE`` names, or the user's cache folder."""
    return find_named_cache() or Path(platformdirs.user_cache_dir("darl-opensearch"))
