"""The cycle: from OOD traffic to a better serving model."""

from __future__ import annotations
