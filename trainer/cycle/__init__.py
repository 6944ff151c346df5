"""The cycle: from out-of-distribution traffic to a better model in service."""

from __future__ import annotations
