"""The insurance sample keeps what its README promises."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from darl_opensearch.stats.grades import confusion, kappa, share_equal

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "insurance"
HELP = "help"
UNSEEN = {"pet", "cyber", "event", HELP}
JUDGED = ("judgments", "dev_judgments", "test_judgments", "later_judgments")
SPLIT = ("judgments", "dev_judgments", "test_queries", "traffic", "later_traffic")  # every query is in one of them


def rows(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def readme():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def agreement():
    return runpy.run_path(str(FOLDER / "agreement.py"))


def plain(text):
    return " ".join(re.sub(r"\W+", " ", text.lower()).split())


def test_sizes():
    assert len(rows("items")) + len(rows("new_items")) >= 150
    assert len({row["query_id"] for name in SPLIT for row in rows(name)}) >= 300
    judged = [row["grade"] for name in JUDGED for row in rows(name)]
    assert len(judged) >= 5000 and set(judged) == {0, 1, 2}
    assert min(Counter(judged).values()) >= 100


def test_the_readme_counts_right(readme):
    counts = dict(re.findall(r"^\| `(\w+)\.jsonl` \|.*\| ([\d,]+) \|$", readme, re.M))
    assert counts.keys() >= {"items", "new_items", "judgments", "dev_judgments", "traffic", "second_pass"}
    for name, count in counts.items():
        assert len(rows(name)) == int(count.replace(",", "")), name
    held_out = re.search(r"held-out part: (\d+) queries .*?, (\d+) of the new ones \| ([\d,]+) pairs \|", readme)
    assert Counter(row["seen"] for row in rows("test_queries")) == {True: int(held_out[1]), False: int(held_out[2])}
    assert len(rows("test_judgments")) == int(held_out[3].replace(",", ""))
    for name, count in re.findall(r"^\| `(\w+)\.jsonl` \|.* (\d+) queries \|", readme, re.M):
        assert len({row["query_id"] for row in rows(name)}) == int(count), name
    later = re.search(r"later part: (\d+) queries .*?, (\d+) of the twelve \| ([\d,]+) pairs \|", readme)
    assert Counter(row["seen"] for row in rows("later_traffic")) == {False: int(later[1]), True: int(later[2])}
    assert len(rows("later_judgments")) == int(later[3].replace(",", ""))
    irrelevant = re.search(r"([\d,]+) of\s+the later part's ([\d,]+)", readme)
    grades = [row["grade"] for row in rows("later_judgments")]
    assert [f"{grades.count(0):,}", f"{len(grades):,}"] == list(irrelevant.groups())


def test_every_item_is_a_whole_product_or_a_page_without_a_price():
    items = rows("items") + rows("new_items")
    assert len({item["id"] for item in items}) == len(items)
    assert len({item["name"] for item in items}) == len(items)
    for item in items:
        price = set() if item["kind"] == HELP else {"price_band"}
        assert item.keys() == {"id", "name", "kind", "cover", "exclusions", "who"} | price
        assert all(isinstance(value, str) and value.strip() for value in item.values()), item["id"]


def test_new_kinds_are_nowhere_in_what_is_trained_on():
    assert {item["kind"] for item in rows("new_items")} == UNSEEN
    assert not {item["kind"] for item in rows("items")} & UNSEEN
    known = {item["id"] for item in rows("items")}
    for name in ("judgments", "dev_judgments", "traffic"):
        for row in rows(name):
            assert row["slice"] not in UNSEEN, name
            assert not any(row["query_id"].startswith(f"q-{kind}-") for kind in UNSEEN)
            assert row.get("item_id", "home-01") in known
    for name in ("test_queries", "later_traffic"):
        for row in rows(name):
            assert row["seen"] == (row["slice"] not in UNSEEN), row["query_id"]


def test_later_traffic_has_both_what_is_new_and_what_is_known():
    count = Counter(row["slice"] for row in rows("later_traffic"))
    assert {kind: count[kind] for kind in UNSEEN} == dict.fromkeys(UNSEEN, 30) | {HELP: 90}
    assert count.keys() - UNSEEN == {item["kind"] for item in rows("items")}
    assert sum(count[kind] for kind in count.keys() - UNSEEN) == 30


def test_no_query_is_in_two_parts():
    where = defaultdict(set)
    for name in SPLIT:
        for row in rows(name):
            where[plain(row["query"])].add(name)
            where[row["query_id"]].add(name)
    assert {text: found for text, found in where.items() if len(found) > 1} == {}


def test_no_query_is_nearly_one_of_another_part_nor_of_the_later_one():
    words = {(name, row["query"]): set(plain(row["query"]).split()) for name in SPLIT for row in rows(name)}
    pairs = [p for p in itertools.combinations(words, 2) if p[0][0] != p[1][0] or p[0][0] == "later_traffic"]
    assert [(a, b) for a, b in pairs if len(words[a] & words[b]) >= Fraction(4, 5) * len(words[a] | words[b])] == []


def test_a_query_has_one_text_and_is_told_apart():
    texts = defaultdict(set)
    for name in (*JUDGED, *SPLIT):
        for row in rows(name):
            texts[row["query_id"]].add((row["query"], row["slice"]))
    assert {query_id: found for query_id, found in texts.items() if len(found) > 1} == {}


def test_judgments_name_items_that_exist_once_each():
    known = {item["id"] for item in rows("items") + rows("new_items")}
    pairs = [(row["query_id"], row["item_id"]) for name in JUDGED for row in rows(name)]
    assert {item for _, item in pairs} <= known
    assert len(set(pairs)) == len(pairs)
    for judged, queries in (("test_judgments", "test_queries"), ("later_judgments", "later_traffic")):
        assert {row["query_id"] for row in rows(judged)} == {row["query_id"] for row in rows(queries)}


def test_whatever_the_demo_reranks_for_a_later_query_is_judged():
    from darl_opensearch.bm25 import Bm25Index
    from trainer.config import read_config

    template = read_config(FOLDER / "darl.toml").template.item_template
    items = rows("items") + rows("new_items")
    index = Bm25Index((item["id"], template.render(item, where=item["id"])) for item in items)
    judged = {(row["query_id"], row["item_id"]) for row in rows("later_judgments")}
    for row in rows("later_traffic"):
        assert {(row["query_id"], hit.item_id) for hit in index.search(row["query"], 50)} <= judged, row["query_id"]


def test_nearly_every_query_found_something():
    best = defaultdict(int)
    for name in JUDGED:
        for row in rows(name):
            best[row["query_id"]] = max(best[row["query_id"]], row["grade"])
    assert np.mean([grade > 0 for grade in best.values()]) > 0.9  # some needs no judged product meets
    assert np.mean([grade == 2 for grade in best.values()]) > 0.75


def test_grades_do_not_follow_from_kinds():
    """A rule from kinds or from words in common would be learnt instead of the guideline."""
    kinds = {item["id"]: item["kind"] for item in rows("items") + rows("new_items")}
    texts = {item["id"]: set(plain(" ".join(item.values())).split()) for item in rows("items") + rows("new_items")}
    same, overlap = defaultdict(Counter), defaultdict(list)
    for name in JUDGED:
        for row in rows(name):
            same[row["slice"] == kinds[row["item_id"]]][row["grade"]] += 1
            words = set(plain(row["query"]).split())
            overlap[row["grade"]].append(len(words & texts[row["item_id"]]) / len(words))
    assert min(same[True][grade] for grade in (0, 1, 2)) > 50  # inside a kind all grades occur
    assert same[False][1] + same[False][2] > 10  # and outside it not only irrelevant ones
    irrelevant, fits = np.array(overlap[0]), np.array(overlap[2])
    assert (irrelevant[:, None] > fits[None, :]).mean() > 0.1  # words in common do not settle it


def test_part_of_each_kind_was_never_judged():
    used = {row["item_id"] for name in ("judgments", "dev_judgments") for row in rows(name)}
    for kind in {item["kind"] for item in rows("items")}:
        ids = [item["id"] for item in rows("items") if item["kind"] == kind]
        assert Fraction(sum(i not in used for i in ids), len(ids)) >= Fraction(4, 13), kind


def test_the_configuration_trains_on_these_files():
    from darl_opensearch.records.items import read_items
    from darl_opensearch.records.judgments import check_disjoint, read_judgments
    from darl_opensearch.records.traffic import read_traffic
    from trainer.config import read_config

    config = read_config(FOLDER / "darl.toml")
    template = config.template.item_template

    def render(item, *, where):
        return template.render(item, where=where)

    render.template = template
    items = read_items(FOLDER / config.data.items, render)
    train, dev = (read_judgments(FOLDER / f, items, 3) for f in (config.data.judgments, config.data.dev))
    check_disjoint(train, dev, where="dev")
    assert len(read_traffic(FOLDER / config.data.traffic, items)) >= 100
    assert config.grades.names == ("irrelevant", "related", "fits")


def test_kappa_is_as_defined():
    assert kappa(np.eye(3) * 5) == share_equal(np.eye(3)) == 1
    assert kappa(np.ones((3, 3))) == pytest.approx(0)  # chance
    table = np.array([[20.0, 5, 0], [10, 15, 0], [0, 0, 0]])
    assert share_equal(table) == pytest.approx(35 / 50)
    assert kappa(table) == pytest.approx((35 / 50 - 1 / 2) / (1 - 1 / 2))  # the textbook's two by two
    assert kappa(table, power=2) == pytest.approx(kappa(table))  # one step only
    far = np.array([[9.0, 0, 1], [0, 9, 0], [0, 0, 9]])
    near = np.array([[9.0, 1, 0], [0, 9, 0], [0, 0, 9]])
    assert kappa(far, power=2) < kappa(near, power=2)


def test_the_readme_states_the_agreement_of_the_files(readme, agreement):
    first, second = agreement["read_passes"](FOLDER)
    table = confusion(first, second, 3)
    stated = re.search(r"kappa\D*([01]\.\d+)\W+quadratic\D*([01]\.\d+)\D*(\d+) pairs", readme)
    assert stated, "the README must state Cohen's kappa, the quadratic one and the number of pairs"
    assert float(stated[1]) == pytest.approx(kappa(table), abs=6e-4)
    assert float(stated[2]) == pytest.approx(kappa(table, power=2), abs=6e-4)
    assert int(stated[3]) == len(first) >= 100
    share = re.search(r"([\d.]+) % equal", readme)
    assert share and float(share[1]) == pytest.approx(100 * share_equal(table), abs=0.06)
    [about_help, _] = agreement["read_passes"](FOLDER, help_part=True)
    assert len({(row["query_id"], row["item_id"]) for row in rows("second_pass")}) == len(first) + len(about_help)
    assert ("The help part was judged once and has no second pass yet.\n" in readme) == (len(about_help) == 0)
    irrelevant = re.search(r"\((\d+) of the (\d+);", readme)
    assert [int(count) for count in irrelevant.groups()] == [(first == 0).sum(), len(first)]
    later = agreement["read_passes"](FOLDER, agreement["LATER"])
    stated = re.search(r"later (\d+) apart: (\d+) of (\d+) equal \(([\d.]+) %\)", readme)
    assert [int(stated[i]) for i in (1, 2, 3)] == [len(later[0]), (later[0] == later[1]).sum(), len(later[0])]
    assert float(stated[4]) == pytest.approx(100 * (later[0] == later[1]).mean(), abs=0.06)


def test_pairs_of_the_help_part_are_told_apart(agreement, tmp_path):
    """A help page for a product's query and a product for a help query are both of it; neither counts with the rest."""
    first = [("q-car-09", "car-01", 1), ("q-car-09", "help-20", 1),
             ("q-help-01", "car-01", 0), ("q-help-01", "help-01", 2)]  # fmt: skip
    files = {"new_items.jsonl": rows("new_items")}
    for name, (query, item, grade) in zip(agreement["FIRST"], first, strict=True):
        files[name] = [{"query_id": query, "item_id": item, "grade": grade, "slice": query.split("-")[1]}]
    files["second_pass.jsonl"] = [{"query_id": query, "item_id": item, "grade": 1} for query, item, _ in first]
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [grades.tolist() for grades in agreement["read_passes"](tmp_path)] == [[1], [1]]
    both = agreement["read_passes"](tmp_path, help_part=True)
    assert [grades.tolist() for grades in both] == [[1, 0, 2], [1, 1, 1]]
    assert agreement["report_by_grade"](*both) == [
        "first judge 0: 0 of 1 equal", "first judge 1: 1 of 1 equal", "first judge 2: 0 of 1 equal",
    ]  # fmt: skip


def test_service_questions_are_answered_by_pages():
    """The convention of the help part: a product is a second look at most, and what fits is a page."""
    kinds = {item["id"]: item["kind"] for item in rows("items") + rows("new_items")}
    for name in ("test_judgments", "later_judgments"):
        asked = [row for row in rows(name) if row["slice"] == HELP]
        fit = {row["query_id"] for row in asked if row["grade"] == 2}
        assert all(kinds[row["item_id"]] == HELP for row in asked if row["grade"] == 2)
        assert len(fit) >= 0.95 * len({row["query_id"] for row in asked})
        others = [row["grade"] for row in rows(name) if row["slice"] != HELP and kinds[row["item_id"]] == HELP]
        assert Counter(others)[2] == 0 and 0 < Counter(others)[1] < 0.1 * len(others)


def test_the_script_prints_it():
    done = subprocess.run([sys.executable, FOLDER / "agreement.py"], capture_output=True, text=True, check=True)
    assert re.search(r"^Cohen's kappa\s+0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]$", done.stdout, re.M), done.stdout
    assert "nan" not in done.stdout and done.stderr == ""


def test_a_guideline_comes_with_it():
    text = (FOLDER / "GUIDELINE.md").read_text(encoding="utf-8")
    assert all(f"| {grade} | {name} |" in text for grade, name in enumerate(("irrelevant", "related", "fits")))
