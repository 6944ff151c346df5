"""A bundle that is not the one that the gate let pass serves nowhere."""

from __future__ import annotations

import json
import shutil

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import GateRefused
from darl_opensearch.scores import GradeScale
from tests.helpers.bundles import tiny_bundle
from tests.helpers.cycles import world
from trainer.cycle.config import CycleConfig, GateTable, ModelTable
from trainer.cycle.folder import Cycle, Cycles
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.steps import STEPS


def context(folder, *, passed=True, swapped=False):
    """A cycle before its register, with what the gate said of its bundle; another bundle lies there if it is told."""
    cycle = Cycle(folder / "cycles" / "0001", 1)
    serving, made = tiny_bundle(folder / "serving"), tiny_bundle(cycle.path / "bundle", version="2")
    cycle.finish("gate", {"settings": {}, "passed": passed, "new": {"identity": made.identity}})
    if swapped:
        shutil.rmtree(made.path)
        other = tiny_bundle(made.path, version="2", scale=GradeScale(("no", "yes"), (0.0, 1.0)))
        assert other.identity != made.identity
    config = CycleConfig(model=ModelTable(bundle="serving", config="darl.toml"), gate=GateTable(id_test="id.jsonl"))
    return CycleInputs(config, folder, Cycles(folder / "cycles"), cycle, Bundle.open(serving.path), world(folder))


@pytest.mark.parametrize("name", ["register", "release"])
@pytest.mark.parametrize("odd", [{"swapped": True}, {"passed": False}, {"passed": "yes"}])
def test_another_bundle_is_refused(tmp_path, name, odd):
    (step,) = (step for step in STEPS if step.name == name)
    with pytest.raises(GateRefused) as caught:
        step.run(context(tmp_path, **odd))
    said = str(caught.value)
    assert "0001/bundle: this is not the bundle that passed the gate. Restore that bundle" in said
    assert "--abandon" in said
    assert not (tmp_path / "cycles" / "current.json").exists() and not (tmp_path / "deployed.jsonl").exists()


def test_the_one_that_passed_is_not(tmp_path):
    given = context(tmp_path)
    for step in STEPS:
        if step.name in ("register", "release"):
            step.run(given)
    current = json.loads((tmp_path / "cycles" / "current.json").read_text())
    assert current["bundle"] == "0001/bundle"
