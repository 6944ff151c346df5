"""The trained run and bundle, made once a session."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may ask a hub

from trained_support import checkpoint, small  # noqa: F401  fixtures
