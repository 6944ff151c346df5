"""``darl evaluate`` as a whole: what it writes, what it prints, what it refuses."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from darl_opensearch import bundle as files
from darl_opensearch.scores import GradeScale
from darl_opensearch.scoring import Scorer
from darl_opensearch.stats.bootstrap import bootstrap_ratio
from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.bundles import ITEMS, copy_bundle, correct_digests, tiny_bundle
from tests.helpers.files import read_rows, write_rows
from tests.helpers.judged import GRADED, STRANGE, write_judgments
from tests.helpers.trained import SAMPLE
from trainer.evaluate.parts import read_catalogue, read_part

ROOT = Path(__file__).parents[2]
DRAWS = ("--draws", "300")


@pytest.fixture
def darl(darl):
    return functools.partial(darl, "evaluate")


@pytest.fixture
def data(tmp_path):
    write_rows(tmp_path / "items.jsonl", ITEMS)
    write_judgments(tmp_path / "id.jsonl", GRADED)
    write_judgments(tmp_path / "new.jsonl", STRANGE)
    return tmp_path


@pytest.fixture
def words(tiny, data):
    """A whole command: two parts, two baselines, a sweep."""
    return (
        tiny.path, "--items", data / "items.jsonl", "--judgments", f"id={data / 'id.jsonl'}",
        "--judgments", f"new={data / 'new.jsonl'}", "--against", "bm25", "--against", "cosine", "--depth", "2",
        "--cutoff", "3", *DRAWS,
    )  # fmt: skip


def rows_of(result, table, **keys):
    return [row for row in result[table] if all(row[key] == value for key, value in keys.items())]


def test_figures_are_those_of_the_graph(darl, words, tiny, data):
    said = darl(*words, "--json")
    assert (said.code, said.err) == (0, "")
    result = json.loads(said.out)
    assert (result["format"], result["seed"], result["draws"]) == (1, 0, 300)
    assert [system["name"] for system in result["systems"]] == ["tiny-1", "bm25", "cosine"]
    assert result["systems"][0]["sha256"] == tiny.digests[files.MODEL]
    digest = hashlib.sha256((data / "new.jsonl").read_bytes()).hexdigest()
    assert result["parts"][1] == {
        "name": "new", "path": str(data / "new.jsonl"), "sha256": digest, "queries": 3, "pairs": 18,
        "grades": [14, 2, 2],
    }  # fmt: skip
    items = read_catalogue([data / "items.jsonl"], tiny.renderer)
    part = read_part("id", data / "id.jsonl", items, 3, seed=0)
    with Scorer.open(tiny, threads=1) as scorer:
        scores = [scorer.score(q.query, [items[i].text for i in q.item_ids]) for q in part.queries]
    score, is_ood = (np.concatenate([getattr(s, name) for s in scores]) for name in ("score", "is_ood"))
    (row,) = rows_of(result, "figures", system="tiny-1", part="id")
    gains = np.array([0.0, 1.0, 3.0])[part.grades]
    values = ndcg_per_query(score.astype(float), gains, part.query_index, cutoff=3)
    assert row["figures"]["ndcg@3"]["mean"] == pytest.approx(np.mean(list(values.values())), abs=2e-5)
    flagged = np.bincount(part.query_index, is_ood, 4)
    share = bootstrap_ratio(flagged, np.full(4, 6.0), draws=300, seed=0)
    assert row["figures"]["share_ood"]["mean"] == pytest.approx(share.mean, abs=1e-5)
    predicted = np.concatenate([s.grade for s in scores])
    assert sum(row["confusion"][g][g] for g in range(3)) == int((predicted == part.grades).sum())
    assert sum(bin_["pairs"] for bin_ in row["reliability"]) == 24


def test_every_table_is_there(darl, words):
    result = json.loads(darl(*words, "--json").out)
    (gap,) = rows_of(result, "gaps", system="tiny-1")
    by_part = {row["part"]: row["figures"] for row in rows_of(result, "figures", system="tiny-1")}
    for name, value in gap["figures"].items():
        parts = by_part["id"][name]["mean"], by_part["new"][name]["mean"]
        assert value["mean"] == pytest.approx(parts[0] - parts[1], abs=2e-5)
    assert {row["slice"] for row in rows_of(result, "slices", part="id")} == {"bicycle", "travel", "home"}
    assert {row["slice"] for row in rows_of(result, "slices", part="new")} == {"bicycle", "travel", "home"}  # items'
    claims = {(row["against"], row["part"], row["figure"]): row for row in result["comparisons"]}
    assert set(claims) == {(a, p, "ndcg@3") for a in ("bm25", "cosine") for p in ("id", "new")}
    others = {row["system"]: row["figures"]["ndcg@3"]["mean"] for row in rows_of(result, "figures", part="id")}
    difference = others["tiny-1"] - others["bm25"]
    assert claims["bm25", "id", "ndcg@3"]["mean"] == pytest.approx(difference, abs=2e-5)
    assert all(row["p"] <= row["p_holm"] <= 1 for row in claims.values())
    assert claims["cosine", "id", "ndcg@3"]["mean"] == 0.0  # the tiny graph's score is monotone in it
    assert [(row["system"], row["part"]) for row in result["auroc"]] == [("tiny-1", "new")]
    assert [(row["system"], row["part"], row["pairs"]) for row in result["flagged"]] == [
        ("tiny-1", "id", 24),
        ("tiny-1", "new", 18),
    ]
    for row in result["flagged"]:
        share, figures = row["flagged"] / row["pairs"], row["figures"]
        assert share == pytest.approx(by_part[row["part"]]["share_ood"]["mean"], abs=1e-5)
        sides = [figures[f"rps_{side}"]["mean"] or 0.0 for side in ("flagged", "other")]
        assert share * sides[0] + (1 - share) * sides[1] == pytest.approx(by_part[row["part"]]["rps"]["mean"], abs=2e-5)
    assert [row["depth"] for row in rows_of(result, "depths", part="id")] == [0, 2]
    assert result["first_stage"] == {"kind": "bm25"}
    # q3's words are in one item only, s3's in none
    assert rows_of(result, "depths", part="new", depth=2)[0]["queries_without_items"] == 1


def test_items_without_text_are_passed_over_and_counted(darl, words, data):
    whole = json.loads(darl(*words, "--json").out)
    write_rows(data / "items.jsonl", [*ITEMS, {"id": "nothing", "name": "", "kind": "", "cover": ""}])
    rows = [json.loads(line) for line in (data / "id.jsonl").read_text().splitlines()]
    write_rows(data / "id.jsonl", [*rows, rows[0] | {"item_id": "nothing"}])
    said = darl(*words, "--json")
    found = json.loads(said.out)
    assert said.err == "warning: passed over: 1 item without text (nothing), with 1 judgment\n"
    assert found["without_text"] == {"nothing": 1} and whole["without_text"] == {}
    assert [row["figures"] for row in found["figures"]] == [row["figures"] for row in whole["figures"]]


def test_the_same_seed_says_the_same(darl, words, data):
    one = darl(*words, "--json").out
    assert darl(*words, "--json").out == one
    darl(*words, "--out", data / "a")
    darl(*words, "--out", data / "b")
    for file in (data / "a").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (data / "b" / file.relative_to(data / "a")).read_bytes()
    assert json.loads((data / "a/evaluation.json").read_text()) == json.loads(one)
    other = json.loads(darl(*words, "--json", "--seed", "5").out)
    assert other["seed"] == 5 and other["figures"] != json.loads(one)["figures"]


def test_a_model_that_cannot_tell_items_apart_earns_what_chance_does(darl, tiny, data):
    """All items score alike for a query of unknown words, and the file lists the best first."""
    graded = [(f"q{n}", f"zz{n}", "", (2, 0, 0, 0, 0, 0)) for n in range(80)]
    write_judgments(data / "j.jsonl", graded)
    run = darl(
        tiny.path, "--items", data / "items.jsonl", "--judgments", data / "j.jsonl", "--json", *DRAWS,
        "--against", "bm25",
    )  # fmt: skip
    (row,) = rows_of(json.loads(run.out), "figures", system="bm25")
    chance = sum(1 / rank for rank in range(1, 7)) / 6  # of the reciprocal rank of one in six
    assert row["figures"]["rr"]["low"] < chance < row["figures"]["rr"]["high"] < 0.7


def test_the_folder(darl, words, data, tiny):
    said = darl(*words, "--out", data / "out")
    assert said.code == 0 and "the full report with charts is in" in said.err
    assert "nDCG@3" in said.out and "tiny-1" in said.out and "300 resamples of the queries, seed 0" in said.out
    names = {path.name for path in (data / "out/runs").iterdir()}
    assert names == {
        "id.qrels", "new.qrels", *(f"{s}.{p}.trec" for s in ("tiny-1", "bm25", "cosine") for p in ("id", "new")),
        *(f"tiny-1.{p}.depth{d}.trec" for p in ("id", "new") for d in (0, 2)),
    }  # fmt: skip
    assert not [path for path in data.iterdir() if path.name.startswith(".")]
    result = json.loads((data / "out/evaluation.json").read_text())
    qrels = list(ir_measures.read_trec_qrels(str(data / "out/runs/id.qrels")))
    measure = ir_measures.nDCG(gains={0: 0, 1: 1, 2: 3}) @ 3
    for file, row in (
        ("tiny-1.id.trec", rows_of(result, "figures", system="tiny-1", part="id")[0]),
        ("tiny-1.id.depth2.trec", rows_of(result, "depths", part="id", depth=2)[0]),
    ):
        run = list(ir_measures.read_trec_run(str(data / "out/runs" / file)))
        assert row["figures"]["ndcg@3"]["mean"] == pytest.approx(measure.calc_aggregate(qrels, run), abs=1e-5)
    again = darl(*words, "--out", data / "out")  # an evaluation may be replaced
    assert again.code == 0


def test_every_ranking_has_a_file_of_its_own(darl, words, data):
    names = ["my run", "my_run", "MY_run", "y" * 240]
    for number, name in enumerate(names):
        (data / f"{name}.trec").write_text(f"q1 Q0 {ITEMS[number]['id']} 1 2.0 t\ns1 Q0 b-1 1 1.0 t\n")
    against = [word for name in names for word in ("--against", data / f"{name}.trec")]
    assert darl(*words, *against, "--out", data / "out").code == 0
    first = {  # of what each file says of q1, and by whom
        file.name: file.read_text().split()[2::3][:2] for file in (data / "out/runs").glob("*.id*.trec")
        if file.name.casefold().startswith(("my", "y"))
    }  # fmt: skip
    assert first == {
        "my_run.id.trec": ["b-1", "my%20run"], "my_run.id-2.trec": ["b-2", "my_run"],
        "MY_run.id-3.trec": ["t-1", "MY_run"], f"{'y' * 150}.id.trec": ["t-2", "y" * 240],
    }  # fmt: skip


def test_a_run_file_as_first_stage_and_as_opponent(darl, words, data, tiny):
    darl(*words, "--out", data / "out")
    run = data / "out/runs/bm25.id.trec"
    common = (tiny.path, "--items", data / "items.jsonl", "--judgments", data / "id.jsonl", "--cutoff", "3", *DRAWS)
    result = json.loads(darl(*common, "--against", run, "--run", run, "--json").out)
    assert [row["depth"] for row in result["depths"]] == [0, 5, 10, 20, 50, 100]
    assert result["first_stage"]["path"] == str(run)
    by_name = {row["system"]: row["figures"]["ndcg@3"]["mean"] for row in result["figures"]}
    assert result["depths"][0]["figures"]["ndcg@3"]["mean"] == by_name["bm25.id"]
    assert result["depths"][-1]["figures"]["ndcg@3"]["mean"] == by_name["tiny-1"]  # all six items reranked
    gain = result["depths"][-1]["gain"]["ndcg@3"]
    (claim,) = result["comparisons"]
    assert (gain["mean"], gain["low"], gain["p"]) == (claim["mean"], claim["low"], claim["p"])
    assert result["depths"][0]["figures"]["judged@3"]["mean"] == 1.0


# ---- the page


class Page(HTMLParser):
    """Tags, attributes and texts; a tag that is not closed is a failure."""

    VOID = ("meta", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_nothing_else_and_escapes_what_is_not_ours(darl, data, tmp_path):
    bad = '<script>alert("x")</script> $\\frac{1}{0}$ & 中文'
    unprintable = "\x1b[31m\x00\u202e"
    scale = GradeScale(("irrelevant", "<b>related", "fits & more"), (0.0, 0.5, 1.0))
    tiny_bundle(tmp_path / "odd & <i>", scale=scale)
    rows = [json.loads(line) for line in (data / "id.jsonl").read_text().splitlines()]
    write_rows(data / "id.jsonl", [row | {"slice": bad + unprintable} for row in rows])
    (data / f"_{unprintable[:5]}.trec").write_text("q1 Q0 b-1 1 2.0 t\ns1 Q0 b-1 1 1.0 t\n")
    said = darl(
        tmp_path / "odd & <i>", "--items", data / "items.jsonl", "--judgments", data / "id.jsonl",
        "--judgments", f"new={data / 'new.jsonl'}", "--depth", "3", "--out", data / "out", *DRAWS,
        "--against", data / f"_{unprintable[:5]}.trec",
    )  # fmt: skip
    assert said.code == 0, said.err
    text = (data / "out/evaluation.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags and "i" not in page.tags
    assert not re.search(r"https?:|//|@import|url\((?!#)", text.replace("//", "", 0).split("</style>")[1])
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#") or value == "data:,"
    assert {"img", "iframe", "object"}.isdisjoint(page.tags)
    assert page.tags.count("svg") == 4
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for name, value in page.attributes if name == "href" and value != "data:,"}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    shown = "".join(page.texts)
    assert not set("\x1b\x00\u202e") & set(text) and shown.count("_\ufffd[31m") >= 3
    assert bad in shown and "<b>related" in shown and f"{tmp_path}/odd & <i>" in shown
    assert "currentColor" in text and "#010203" not in text and "color-scheme: light dark" in text


# ---- other ways to name a model


def test_bundles_are_evaluated_without_torch(words):
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'optimum', 'onnx'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['darl', 'evaluate', *{[str(word) for word in words]!r}, '--json']\n"
        "from darl_opensearch.cli import main\n"
        "main()"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["systems"][0]["name"] == "tiny-1"


def test_a_finished_run_says_what_its_bundle_says(darl, small):
    trained, bundle = small
    said = darl(
        bundle.path, trained.folder, "--items", SAMPLE / "items.jsonl",
        "--judgments", trained.folder.parent / "data" / "dev_judgments.jsonl",
        "--against", "int8", "--against", bundle.path, "--json", *DRAWS,
    )  # fmt: skip
    assert said.code == 0, said.err
    result = json.loads(said.out)
    names = [system["name"] for system in result["systems"]]
    assert [system["kind"] for system in result["systems"]] == ["bundle", "run", "bundle", "bundle"]
    assert names == ["small-1", "small-1-torch", "small-1-int8", "small-1-2"]
    by_name = {row["system"]: row["figures"] for row in result["figures"]}
    for name, value in by_name["small-1"].items():
        assert by_name["small-1-torch"][name]["mean"] == pytest.approx(value["mean"], abs=0.02), name
    assert by_name["small-1-2"] == by_name["small-1"] != by_name["small-1-int8"]
    said = darl(
        trained.folder, "--items", SAMPLE / "items.jsonl", "--judgments",
        trained.folder.parent / "data" / "dev_judgments.jsonl", "--against", "int8",
    )  # fmt: skip
    assert said.code == 2
    assert "--against int8: small-1-torch is a run and has no quantised graph. Name its bundle first" in said.err


# ---- mistakes


def changed(file, line, **fields):
    rows = [json.loads(row) for row in file.read_text().splitlines()]
    rows[line - 1] |= fields
    write_rows(file, rows)


@pytest.fixture
def refused(darl, data, tiny):
    def run(*more, bundle=tiny.path, code=1, judgments="id.jsonl"):
        said = darl(
            bundle, "--items", data / "items.jsonl", "--judgments", data / judgments, "--out", data / "out", *more
        )  # fmt: skip
        assert (said.code, said.out) == (code, ""), said
        assert said.err.startswith("darl: ") and said.err.count("\n") == 1, said.err
        assert not (data / "out").exists()
        return said.err

    return run


def test_judgments_that_do_not_fit(refused, data):
    changed(data / "id.jsonl", 3, grade=3)
    assert "id.jsonl, line 3: field 'grade' is 3, not a whole number in 0..2" in refused()
    changed(data / "id.jsonl", 3, grade=1, item_id="gone")
    assert "id.jsonl, line 3: item 'gone' is not in the items. Add it to the items" in refused()
    (data / "id.jsonl").write_text("")
    assert "id.jsonl: the file has no judgments" in refused()
    assert "missing.jsonl: cannot be read" in refused(judgments="missing.jsonl")
    os.mkfifo(data / "pipe")  # its digest would be that of nothing
    assert "pipe: the input cannot be read twice. Save it to a file first" in refused(judgments="pipe")
    assert "pipe: the input cannot be read twice" in refused("--items", data / "pipe")


def test_runs_that_do_not_fit(refused, data):
    short = data / "short.trec"
    short.write_text("q1 Q0 b-1 1 2.0 t\nq1 Q0 b-2\n")
    assert f"{short}, line 2: 3 columns instead of 6. Write query_id Q0" in refused("--against", short)
    assert f"{short}, line 2: 3 columns" in refused("--run", short)
    short.write_text("q1 Q0 x-9 1 2.0 t\n")
    assert "item 'x-9', ranked for query 'q1', is not in the items. Add it to the items" in refused("--run", short)
    assert "the run has none of the judged pairs. Name a run over the same" in refused("--against", short)
    short.write_text("other Q0 b-1 1 2.0 t\n")
    assert "the run has none of the queries of part 'id'" in refused("--run", short)


def test_runs_with_ids_that_a_program_has_changed(refused, data):
    run = data / "run.trec"
    run.write_text("q1.0 Q0 b-1 1 2.0 t\n")
    for option in ("--against", "--run"):
        assert "There is 'q1': one of the two files was saved with ids that a program" in refused(option, run)


def test_ids_with_percent_signs_are_those_of_the_run(darl, tiny, data):
    """Other programs write ids as they are: a ranking by grade has the best nDCG."""
    ids = {item["id"]: f"<x:%22{item['id']}%22>" for item in ITEMS}
    write_rows(data / "items.jsonl", [item | {"id": ids[item["id"]]} for item in ITEMS])
    rows = [row | {"item_id": ids[row["item_id"]]} for row in read_rows(data / "id.jsonl")]
    write_rows(data / "id.jsonl", rows)
    ranked = sorted(rows[:-1], key=lambda row: -row["grade"])
    (data / "r.trec").write_text("".join(f"{r['query_id']} Q0 {r['item_id']} 1 {r['grade']} t\n" for r in ranked))
    said = darl(tiny.path, "--items", data / "items.jsonl", "--judgments", data / "id.jsonl", *DRAWS, "--json",
                "--against", data / "r.trec", "--run", data / "r.trec")  # fmt: skip
    result = json.loads(said.out)
    (row,) = rows_of(result, "figures", system="r")
    assert row["figures"]["ndcg@10"]["mean"] == 1.0
    queries = len({row["query_id"] for row in rows})
    assert result["joined"] == [
        {"what": "judgments with the items", "matched": len(rows), "unmatched": 0},
        {"what": "judged pairs of id with the run r", "matched": len(rows) - 1, "unmatched": 1},
        {"what": "queries of id with the first stage's run", "matched": queries, "unmatched": 0},
    ]


def test_systems_that_there_are_not(refused, data, tmp_path, tiny):
    assert "nothing: there is no bundle here" in refused(bundle=tmp_path / "nothing")
    said = refused("--against", "consine", code=2)
    assert "--against: 'consine' is neither a bundle nor a run file. Name a folder" in said
    assert "this bundle has no model_int8.onnx" in refused("--int8")
    two = tiny_bundle(tmp_path / "two", scale=GradeScale(("no", "yes"), (0.0, 1.0)))
    said = refused("--against", two.path, code=2)
    assert f"{two.path}: gains [0.0, 1.0] differ from [0.0, 1.0, 3.0] of tiny-1. Evaluate models with different" in said
    cross = correct_digests(copy_bundle(tiny, tmp_path / "cross"), backbone="cross")
    said = refused("--against", "cosine", bundle=cross, code=2)
    assert "--against cosine: tiny-1 has no separate query and item embeddings for a cosine" in said


def test_options_that_do_not_fit(refused, data):
    said = refused("--relevant-from", "3", code=2)
    assert "--relevant-from: grade 3 does not split the scale 0..2 in two. Name a grade in 1..2" in said
    assert "two files are given for the part 'id'" in refused("--judgments", data / "new.jsonl", code=2)


def test_a_folder_that_holds_something_else_stays(darl, words, data):
    (data / "mine").mkdir()
    (data / "mine/thesis.txt").write_text("years of work")
    said = darl(*words, "--out", data / "mine")
    assert said.code == 2 and "mine: the folder exists and is not an evaluation. Choose another" in said.err
    assert [path.name for path in (data / "mine").iterdir()] == ["thesis.txt"]
    said = darl(*words, "--out", data / "items.jsonl")
    assert said.code == 2  # a file
    (data / "link").symlink_to(data / "mine")
    said = darl(*words, "--out", data / "link")
    assert said.code == 2 and "link: this is a link, not a folder. Use the folder that it points to" in said.err
    for more in ("notes.md", "runs/notes.md"):  # beside or within an evaluation
        folder = data / more.replace("/", "-")
        (folder / "runs").mkdir(parents=True)
        (folder / "evaluation.json").write_text("{}")
        (folder / more).write_text("what we saw")
        said = darl(*words, "--out", folder)
        assert said.code == 2 and "exists and is not an evaluation" in said.err
        assert (folder / more).read_text() == "what we saw"


@pytest.mark.parametrize("library", ["ir_measures", "matplotlib"])
def test_a_missing_library_names_the_extra_before_anything_is_scored(darl, words, data, monkeypatch, library):
    import importlib

    real = importlib.import_module

    def without(name, *more):
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(Scorer, "score_many", lambda *_: pytest.fail("scored"))
    said = darl(*words, "--out", data / "out")
    assert said.code == 1 and f"{library} is not installed. Run: " in said.err
    assert "'darl-opensearch[train]'" in said.err
