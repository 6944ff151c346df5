"""Why a text is strange, from training texts that a bundle holds if it was asked to."""

from __future__ import annotations

import json
import shutil

import pytest

from darl_opensearch.bundle import TEXTS, Bundle, TrainingTexts
from darl_opensearch.errors import BundleError
from darl_opensearch.monitor.nearest import Nearest, Why, describe
from tests.helpers.bundles import correct_digests
from tests.helpers.traffic import request_of, rows_of

HELD = TrainingTexts(
    ("stolen bicycle cover", "storm damage to the roof"), (("i-1", "Bicycle theft"), ("i-2", "Roof <b>& walls"))
)


@pytest.fixture(scope="module")
def bundle(tiny, tmp_path_factory):
    folder = shutil.copytree(tiny.path, tmp_path_factory.mktemp("held") / "tiny")
    (folder / TEXTS).write_text(HELD.to_jsonl(), encoding="utf-8")
    return Bundle.open(correct_digests(folder))


def test_the_nearest_text_of_its_kind_and_the_new_words():
    nearest = Nearest(HELD)
    assert nearest.query("Stolen QUANTUM bicycle") == Why("stolen bicycle cover", None, ("quantum",))
    assert nearest.item("walls of a zeppelin") == Why("Roof <b>& walls", "i-2", ("of", "zeppelin"))
    assert nearest.query("zebra, zebra jazz") == Why(None, None, ("zebra", "jazz"))
    assert nearest.query("?") == Why(None, None, ())
    assert nearest.query("theft") == Why(None, None, ())  # of an item: known, but near no query
    assert describe(Why(None, None, ("jazz",))) == ("(none shares a word)", "jazz") and describe(None) == ()


def test_texts_are_read_back(bundle, tiny):
    assert bundle.training_texts() == HELD
    assert Nearest.of(tiny) is None
    with pytest.raises(BundleError, match="has no ood/texts.jsonl"):
        tiny.training_texts()


@pytest.mark.parametrize("line", ["{", '{"item_id": "x"}', "[]"])
def test_damaged_texts_are_told(tiny, tmp_path, line):
    folder = shutil.copytree(tiny.path, tmp_path / "tiny")
    (folder / TEXTS).write_text(line)
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(correct_digests(folder)).training_texts()


def test_the_page_and_the_figures_show_them(bundle, tiny, tmp_path, darl):
    from darl_opensearch.ood.spool import Spool

    with Spool.open(tmp_path / "log.db", create=True) as spool:
        spool.append(rows_of([request_of(0, [0.99], query="quantum bicycle", documents=["walls"], doc_ids=["i-9"])]))
    page = tmp_path / "page.html"
    asked = ("monitor", "--spool", tmp_path / "log.db", "--html", page, "--json", "--bundle")
    said = darl(*asked, bundle.path)
    assert said.code == 0, said.err
    focus = json.loads(said.out)["overview"]["focus"]
    assert focus["queries"][0]["why"] == {
        "nearest": "stolen bicycle cover", "item_id": None, "new_words": ["quantum"]
    }  # fmt: skip
    assert focus["items"][0]["why"]["item_id"] == "i-2"
    text = page.read_text(encoding="utf-8")
    assert "nearest training query" in text and "i-2: Roof &lt;b&gt;&amp; walls" in text
    assert darl(*asked, tiny.path).code == 0
    text = page.read_text(encoding="utf-8")
    assert "nearest training query" not in text and "exported with <code>--texts</code>" in text
