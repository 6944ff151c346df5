"""``darl`` with its arguments: in this process, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

import pytest


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Run ``darl`` in this process, where torch is loaded already."""
    from darl_opensearch.cli import main

    monkeypatch.setattr(sys, "argv", ["darl", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return Said(int(ended.value.code or 0), said.out, said.err)


def run_darl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with none of this one's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    return subprocess.run(
        [sys.executable, "-m", "darl_opensearch", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=kept | environment,
    )  # fmt: skip
