"""The main job end to end on the insurance sample: train, export, register, search, log, compare."""

from __future__ import annotations

from darl_opensearch.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
