"""``darl`` with its arguments: in this process, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run_main(*arguments: object) -> Said:
    """Run ``darl`` in this process, where torch is loaded already."""
    from darl_opensearch.cli import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["darl", *map(str, arguments)])
        patch.setattr("darl_opensearch.cli.output.INTERVAL", 1e6)  # however slow the machine, no line of progress
        with pytest.raises(SystemExit) as ended:
            main()
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def run_darl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with none of this one's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    return subprocess.run(
        [sys.executable, "-m", "darl_opensearch", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=kept | environment,
    )  # fmt: skip
