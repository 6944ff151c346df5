"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def find_user_cache() -> Path:
    """Return the folder that ``DARL_CACHE`` names, or the user's cache folder."""
    return Path(os.environ.get("DARL_CACHE") or platformdirs.user_cache_dir("darl-opensearch")).expanduser()
