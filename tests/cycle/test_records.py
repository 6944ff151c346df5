"""What a cycle keeps on disk, after somebody wrote into it: never read as something that it does not say."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from darl_opensearch.errors import InputError
from tests.helpers.bundles import ITEMS, tiny_bundle
from tests.helpers.files import write_rows
from trainer.cycle.config import CycleConfig, GateTable, ModelTable, ReleaseTable
from trainer.cycle.folder import Cycle, Cycles
from trainer.cycle.run import abandon
from trainer.cycle.samples import read_rows, render_catalogue
from trainer.cycle.steps import STEPS

BROKEN = ["", "{", "[]", "{}", b"\xe9", 3000 * "[" + 3000 * "]"]


def cycle(folder):
    found = Cycle(folder / "0001", 1)
    begun = {"from": {"name": "tiny", "version": "1", "sha256": 64 * "0"}}
    found.path.mkdir()
    (found.path / "cycle.json").write_text(json.dumps(begun), encoding="utf-8")
    return found


def write(path, what):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(what if isinstance(what, bytes) else what.encode())


@pytest.mark.parametrize("what", [*BROKEN, '{"bundle": ""}', '{"bundle": null}'])
def test_what_serves_is_not_guessed(tmp_path, what):
    first = tiny_bundle(tmp_path / "first").path
    assert Cycles(tmp_path).serving(first).path == first
    write(tmp_path / "current.json", what)
    with pytest.raises(InputError, match=r"current\.json: .* Restore it: its 'bundle' is the folder"):
        Cycles(tmp_path).serving(first)


@pytest.mark.parametrize("what", BROKEN)
def test_a_step_and_an_end_are_not_guessed(tmp_path, what):
    one = cycle(tmp_path)
    write(one.path / "steps" / "gate.json", what)
    with pytest.raises(InputError, match=r"gate\.json: .* Restore it, or remove it to repeat the step"):
        one.read_result("gate")
    write(one.path / "outcome.json", what)
    with pytest.raises(InputError, match=r"outcome\.json: .* Restore it, or remove it to let the cycle resume"):
        Cycles(tmp_path).open_or_next()


@pytest.mark.parametrize("what", [*BROKEN, '{"from": 1}', '{"from": {"name": "tiny", "version": "1"}}'])
def test_how_it_began_is_not_guessed_and_it_can_be_ended(tmp_path, what):
    (tmp_path / "cycles").mkdir()
    one = cycle(tmp_path / "cycles")
    write(one.path / "cycle.json", what)
    with pytest.raises(InputError, match=r"cycle\.json: .* Restore it, or run darl cycle --abandon"):
        assert one.begun
    config = CycleConfig(model=ModelTable(bundle="b", config="darl.toml"), gate=GateTable(id_test="id.jsonl"))
    assert abandon(config, tmp_path) == "0001" and abandon(config, tmp_path) == ""


def test_a_folder_that_is_no_number_is_none(tmp_path):
    cycle(tmp_path)
    (tmp_path / "2\u00b2").mkdir()
    write(tmp_path / "2\u00b2" / "cycle.json", "{}")
    assert [one.name for one in Cycles(tmp_path).all()] == ["0001"]


def test_the_webhooks_token_is_kept_nowhere():
    release = ReleaseTable(webhook="https://host/t0ken", keep=3)
    config = CycleConfig(model=ModelTable(bundle="b", config="c"), gate=GateTable(id_test="i"), release=release)
    kept = json.dumps([config.to_json(), *(step.settings(config) for step in STEPS)], default=str)
    assert "t0ken" not in kept and '"keep": 3' in kept


def test_samples_that_are_gone_are_not_none(tmp_path):
    with pytest.raises(
        InputError, match=r"judgments\.jsonl: cannot be read .No such file or directory.\. Check the path"
    ):
        read_rows(tmp_path / "judgments.jsonl")


@pytest.mark.parametrize("what", ["{}", '{"query": ""}', '{"query": 5}', '{"query": null}'])
def test_a_sample_that_lost_a_field(tmp_path, what):
    write(tmp_path / "judgments.jsonl", '{"query": "a"}\n' + what)
    with pytest.raises(
        InputError, match=r"judgments\.jsonl, line 2: field 'query' is empty or not text. Restore the line"
    ):
        read_rows(tmp_path / "judgments.jsonl", "query")


def test_a_catalogue_item_without_text_is_passed_over(tiny, tmp_path):
    """The training passes it over, so no later step may end with it; a later file may have its text."""
    blank = {"id": "nothing", "name": "", "kind": "", "cover": ""}
    found: Counter[str] = Counter()
    one, two = write_rows(tmp_path / "a.jsonl", [*ITEMS, blank]), write_rows(tmp_path / "b.jsonl", [blank])
    texts = render_catalogue([one, two], tiny.renderer, blank=found)
    assert list(texts) == [item["id"] for item in ITEMS] and found == {"nothing": 0}
    filled = write_rows(tmp_path / "c.jsonl", [blank | {"name": "Sky"}])
    assert "Sky" in render_catalogue([one, filled], tiny.renderer)["nothing"]
