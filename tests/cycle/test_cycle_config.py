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
        ("warm.items=most", "the items to warm are 'most'. Write all, or a number from 1 to 65535"),
        ("warm.items=all", "[warm] states is empty. Set it to the folder that darl serve uses"),
    ],
)
def test_numbers_that_no_step_can_use(tmp_path, override, message):
    path = tmp_path / "cycle.toml"
    path.write_text(MINIMAL)
    assert read_cycle(path, ["gate.threads=2"]).gate.threads == 2 and read_cycle(path).gate.threads is None
    with pytest.raises(UsageError) as caught:
        read_cycle(path, [override])
    assert str(caught.value).startswith(f"{path}: {message}")


def test_states_are_warmed_from_an_index(tmp_path):
    path = tmp_path / "cycle.toml"
    path.write_text(MINIMAL)
    warm = ["warm.items=all", "warm.states=states"]
    with pytest.raises(UsageError, match=r"\[warm\] items needs \[release\] url and index"):
        read_cycle(path, warm)
    table = read_cycle(path, [*warm, "release.url=http://127.0.0.1:1", "release.index=items"]).warm
    assert (table.items, str(table.states)) == ("all", "states")


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--abandon"]])
def test_the_command_refuses_an_unknown_stage_and_names_the_file(tmp_path, more, darl):
    path = tmp_path / "cycle.toml"
    path.write_text(MINIMAL)
    done = darl("cycle", path, "--set", "train.stages=['refitt']", *more)
    assert done.code == 2
    assert done.err == f"darl: {path}: [train] stages lists 'refitt'. Did you mean 'refit'?\n"
