"""``cycle.toml``: what would end a cycle behind hours of training ends it before."""

from __future__ import annotations

import pytest

from darl_opensearch.errors import UsageError
from trainer.cycle.config import read_cycle

MINIMAL = "[model]\nbundle = 'b'\nconfig = 'darl.toml'\n[gate]\nid_test = 'id.jsonl'\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed is -1. Give 0 or more"),
        ("gate.seed=-1", "[gate] seed is -1. Give 0 or more"),
        ("gate.threads=0", "[gate] threads is 0. Give 1 or more"),
        ("gate.threads=two", "[gate] threads is 'two', not a whole number. Batches scored in parallel"),
        ("gate.threads=true", "[gate] threads is True, not a whole number. Batches scored in parallel"),
        (f"gate.tolerance=1{400 * '0'}", "[gate] tolerance is inf. Give 0 or more"),
        (f"gate.min_queries=1{5000 * '0'}", "[gate] min_queries is '1000"),
        (f"gate.min_queries={3000 * '['}", "[gate] min_queries is '[[["),
    ],
)
def test_numbers_that_no_step_can_use(tmp_path, override, message):
    path = tmp_path / "cycle.toml"
    path.write_text(MINIMAL)
    assert read_cycle(path, ["gate.threads=2"]).gate.threads == 2 and read_cycle(path).gate.threads is None
    with pytest.raises(UsageError) as caught:
        read_cycle(path, [override])
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--abandon"]])
def test_the_command_refuses_an_unknown_stage_and_names_the_file(tmp_path, more, darl):
    path = tmp_path / "cycle.toml"
    path.write_text(MINIMAL)
    done = darl("cycle", path, "--set", "train.stages=['refitt']", *more)
    assert done.code == 2
    assert done.err == f"darl: {path}: [train] stages lists 'refitt'. Did you mean 'refit'?\n"
