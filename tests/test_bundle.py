"""The bundle on disk: whole or not there, and never changed unseen."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle, Card, write_opensearch_zip, writing
from darl_opensearch.errors import BundleError, DarlError, InputError
from darl_opensearch.io.digest import digest_file
from tests.helpers.bundles import SCALE3, tiny_bundle


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(tiny.path, tmp_path / "copy")


def refused(path, **options) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, **options)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and caught.value.todo
    return text


def test_what_was_written_is_read(tiny):
    again = Bundle.open(str(tiny.path))
    assert again.card == tiny.card and again.digests == tiny.digests
    assert Card.from_json(json.loads(json.dumps(tiny.card.to_json())), where="x") == tiny.card
    assert again.card.scale == SCALE3 and again.card.columns.k == 3
    assert again.card.max_length == again.card.query_cap + again.card.item_cap + 4
    assert again.calibration().tolist() == pytest.approx(np.linspace(0.1, 2.0, 39).tolist())
    assert set(files.REQUIRED) <= set(again.digests) and files.CARD not in again.digests
    on_disk = {p.relative_to(tiny.path).as_posix() for p in tiny.path.rglob("*") if p.is_file()}
    assert on_disk == {*again.digests, files.CARD}
    assert again.digests[files.MODEL] == digest_file(tiny.path / files.MODEL)
    assert not [name for name in on_disk if name.endswith((".pkl", ".pt", ".bin", ".pickle"))]


def test_the_same_model_has_the_same_archive(tiny, tmp_path):
    for name in ("again", "once_more"):
        with writing(tmp_path / name, replace(tiny.card, version=name)) as work:
            fill(tiny, work)
    assert {Bundle.open(tmp_path / name).identity for name in ("again", "once_more")} == {tiny.identity}
    assert (tmp_path / "again" / files.ZIP).read_bytes() == (tiny.path / files.ZIP).read_bytes()
    other = tiny_bundle(tmp_path / "other", scale=replace(SCALE3, gains=(0.0, 1.0, 2.0)))
    assert other.identity != tiny.identity
    with zipfile.ZipFile(tiny.path / files.ZIP) as archive:
        assert archive.namelist() == [files.MODEL, files.TOKENIZER]
        assert archive.read(files.MODEL) == (tiny.path / files.MODEL).read_bytes()


def test_touching_a_file_does_not_change_the_archive(copy):
    before = (copy / files.ZIP).read_bytes()
    (copy / files.MODEL).touch()
    (copy / files.MODEL).chmod(0o600)
    write_opensearch_zip(copy)
    assert (copy / files.ZIP).read_bytes() == before


@pytest.mark.parametrize("name", [*files.REQUIRED, files.ZIP])
def test_a_file_that_is_missing(copy, name):
    (copy / name).unlink()
    assert f"{name} is missing" in refused(copy)
    assert f"{name} is missing" in refused(copy, verify=False)


@pytest.mark.parametrize("name", [*files.REQUIRED, files.ZIP])
def test_a_file_that_was_changed(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    text = refused(copy)
    assert f"{name} has SHA-256 " in text and "but the card says" in text
    assert Bundle.open(copy, verify=False).card.name == "tiny"


def change_card(folder, **values):
    card = json.loads((folder / files.CARD).read_text())
    card |= values
    (folder / files.CARD).write_text(json.dumps({k: v for k, v in card.items() if v is not ...}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 2}, "bundle 'tiny' has format 2, but this version reads format 1. Upgrade darl-opensearch"),
        ({"format": ...}, "not a bundle card"),
        ({"alpha": 1, "ood": ...}, "the card is incomplete ('ood')"),
        ({"grades": ...}, "the card is incomplete"),
        ({"template": 7}, "the card is incomplete"),
        ({"files": {}}, "model.onnx is missing"),
        ({"files": ...}, "model.onnx is missing"),
        ({"files": "abc"}, "not a bundle card"),
        ({"grades": [{"name": "a", "gain": "x"}, {"name": "b", "gain": 1}]}, "the card is incomplete"),
        ({"grades": [{"name": "a", "gain": 3}, {"name": "b", "gain": 1}]}, "gains [3.0, 1.0] must be at least 0"),
        ({"name": "../shoes"}, "invalid model name"),
    ],
)
def test_another_card(copy, values, message):
    change_card(copy, **values)
    assert message in refused(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"x"', "\udcff"])
def test_what_is_no_card(copy, text):
    (copy / files.CARD).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "not a bundle card" in refused(copy)


def test_a_card_that_is_nested_without_end(copy):
    (copy / files.CARD).write_text('{"format": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "nested too deeply" in refused(copy)


@pytest.mark.parametrize("name", ["../secret", "ood/../../secret", "/etc/passwd", "..", "a\0b"])
@pytest.mark.parametrize("verify", [True, False])
def test_files_outside_the_folder_are_not_read(copy, name, verify):
    (copy.parent / "secret").write_text("s")
    card = json.loads((copy / files.CARD).read_text())
    change_card(copy, files=card["files"] | {name: "0" * 64})
    text = refused(copy, verify=verify)
    assert "which is not a bundle file" in text and "SHA-256" not in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": {"model.onnx": 5}}, "which is not a bundle file"),
        ({"query_cap": "x"}, "query_cap 'x' is not a number of tokens"),
        ({"item_cap": -5}, "item_cap -5 is not a number of tokens"),
        ({"item_cap": 10**30}, "is not a number of tokens"),
        ({"ood": {"alpha": "x"}}, "alpha 'x' is outside 0..1"),
        ({"ood": {"alpha": float("nan")}}, "alpha nan is outside 0..1"),
        ({"template": {"separator": 3}}, "separator is not text"),
        ({"grades": [{"name": 1, "gain": 0}, {"name": "b", "gain": 1}]}, "a name that is not text"),
        ({"grades": [{"name": "a", "gain": 0}, {"name": "b", "gain": 10**400}]}, "the card is incomplete"),
    ],
)
def test_values_that_would_fail_later(copy, values, message):
    card = json.loads((copy / files.CARD).read_text())
    for key in ("ood", "template"):
        if key in values:
            values = values | {key: card[key] | values[key]}
    change_card(copy, **values)
    assert message in refused(copy)


def test_a_tokenizer_that_is_none(copy):
    (copy / files.TOKENIZER).write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: cannot be read"):
        _ = Bundle.open(copy, verify=False).tokenizer


def test_no_bundle(tmp_path):
    assert "there is no bundle here. Create one with darl export" in refused(tmp_path)
    assert "there is no bundle here" in refused(tmp_path / "nowhere")


def test_a_file_that_a_bundle_need_not_have(tiny):
    assert tiny.file(files.MODEL) == tiny.path / files.MODEL
    with pytest.raises(BundleError, match="this bundle has no model_int8.onnx"):
        tiny.file(files.MODEL_INT8)


@pytest.mark.parametrize("key", ["name", "version"])
@pytest.mark.parametrize("value", ["", "My Shoes", "../shoes", "a/b", "-x", ".hidden", "x" * 64, "é", "a\n"])
def test_names_that_could_be_no_file_and_no_index(tiny, key, value):
    with pytest.raises(InputError, match="invalid (model name|version) .*Use"):
        replace(tiny.card, **{key: value})


# ---- half-written


def fill(tiny, work):
    for name in files.REQUIRED:
        shutil.copy(tiny.path / name, work / name)


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, DarlError])
def test_an_error_while_writing_leaves_nothing(tiny, tmp_path, error):
    with pytest.raises(error), writing(tmp_path / "new", tiny.card) as work:
        fill(tiny, work)
        raise error("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_keeps_the_bundle_that_was_there(copy, tiny):
    before = everything(copy.parent)
    with pytest.raises(RuntimeError), writing(copy, tiny.card) as work:
        fill(tiny, work)
        raise RuntimeError
    assert everything(copy.parent) == before
    with writing(copy, replace(tiny.card, version="2")) as work:
        fill(tiny, work)
    assert Bundle.open(copy).card.version == "2"
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


def test_nothing_is_seen_before_the_end(tiny, tmp_path):
    with writing(tmp_path / "new", tiny.card) as work:
        fill(tiny, work)
        assert not (tmp_path / "new").exists()
        refused(tmp_path / "new")
    assert Bundle.open(tmp_path / "new").identity == tiny.identity


@pytest.mark.parametrize("name", [n for n in files.REQUIRED if n not in (files.MODEL, files.TOKENIZER)])
def test_a_bundle_without_a_required_file_is_not_written(tiny, tmp_path, name):
    with pytest.raises(BundleError, match="was not written"), writing(tmp_path / "new", tiny.card) as work:
        fill(tiny, work)
        (work / name).unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_written_where_one_stands(tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with writing(".", tiny.card) as work:
        fill(tiny, work)
    assert Bundle.open(tmp_path / "here").identity == tiny.identity


def test_nothing_is_written_through_what_lies_in_a_shared_folder(tiny, tmp_path):
    (tmp_path / "theirs").mkdir()
    for name in (f".new.{os.getpid()}.tmp", f".new.{os.getpid()}.old"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
    with writing(tmp_path / "new", tiny.card) as work:
        fill(tiny, work)
    assert list((tmp_path / "theirs").iterdir()) == []
    assert Bundle.open(tmp_path / "new").identity == tiny.identity


def test_a_folder_of_something_else_is_not_replaced(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle"), writing(tmp_path, tiny.card):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


def test_a_file_in_the_way(tiny, tmp_path):
    (tmp_path / "new").write_text("a file")
    with pytest.raises((DarlError, OSError)), writing(tmp_path / "new", tiny.card) as work:
        fill(tiny, work)
    assert (tmp_path / "new").read_text() == "a file"
