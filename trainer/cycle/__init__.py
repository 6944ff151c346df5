"""The cycle: from what the log found strange to a better model that serves."""

from __future__ import annotations
