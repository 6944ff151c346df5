"""Killed at each step and started again: the same result, and nothing done twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cycles import world, write_cycle
from tests.helpers.files import read_rows
from trainer.cycle.config import read_cycle
from trainer.cycle.run import run_cycle
from trainer.cycle.steps import STEPS

ROOT = Path(__file__).parents[2]


def told(folder: Path) -> dict[str, object]:
    """What a cycle came to, without its times and paths."""
    cycle = folder / "cycles" / "0001"
    digest = {name: hashlib.sha256((cycle / name).read_bytes()).hexdigest() for name in (
        "select/selected.jsonl", "select/control.jsonl", "judge/judgments.jsonl", "lineage.jsonl", "train/new.jsonl",
        "train/judgments.jsonl", "train/control.jsonl", "bundle/model.onnx", "bundle/opensearch.zip",
    )}  # fmt: skip
    steps = {step.name: json.loads((cycle / "steps" / f"{step.name}.json").read_text()) for step in STEPS}
    return digest | {
        "gate": {key: value for key, value in steps["gate"].items() if key in ("passed", "reasons", "measure")},
        "current": json.loads((folder / "cycles" / "current.json").read_text())["bundle"],
        "outcome": json.loads((cycle / "outcome.json").read_text())["outcome"],
        "answers": len(read_rows(cycle / "judge" / "work" / "answers.jsonl")),
        "cycles": sorted(path.name for path in (folder / "cycles").glob("0*")),
    }


@pytest.fixture(scope="module")
def uncut(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncut")
    training = small[0].folder.parent / "data" / "darl.toml"
    run_cycle(read_cycle(write_cycle(folder, small[1], training)), folder, world(folder))
    return told(folder)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step(small, uncut, tmp_path, when):
    """``before``: the work is done and not yet noted; ``after``: it is noted, and nothing more."""
    path = write_cycle(tmp_path, small[1], small[0].folder.parent / "data" / "darl.toml")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.helpers.killed_cycle", str(path), when],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert ran.stdout.split("\n")[:-1] == [*(f"{step.name} -9" for step in STEPS), "end 0"], ran.stderr
    assert told(tmp_path) == uncut
    deployed = [row["did"] for row in read_rows(tmp_path / "deployed.jsonl")]
    # A deployment is idempotent and is asked again where its answer was not noted; the cluster's own tests count there.
    again = 2 if when == "before" else 1
    assert deployed == ["register"] * again + ["release"] * again
