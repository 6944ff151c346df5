"""Selecting from a log: who is dropped and why, both arms, their items, a run that is killed, wrong input."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.ood.record import LogPolicy
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.store import SpoolStore
from tests.helpers.bundles import ITEMS, TEMPLATE, tiny_bundle
from tests.helpers.traffic import START, request_of, rows_of
from trainer.dasa import run as run_module
from trainer.dasa.config import SelectConfig
from trainer.dasa.items import NO_ITEMS, Items
from trainer.dasa.labelled import LabelledQueries
from trainer.dasa.report import DROPPED, SelectReport
from trainer.dasa.run import select
from trainer.judging.tasks import read_tasks

TEXTS = {item["id"]: TEMPLATE.render(item) for item in ITEMS}
STRANGE = (0.99, 0.98, 0.97, 0.99)
FAMILIAR = (0.1, 0.2, 0.3, 0.4)
SMALL = SelectConfig(budget=12, items_per_query=3, control_items=3, depth=4, control_queries=3, noise=0)
POLICY = LogPolicy(model="tiny", version="1", alpha=0.05, sample_rate=0.5)
EVERY_PAIR = dataclasses.replace(POLICY, sample_rate=1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("select") / "tiny")


def by_words(requests):
    """Features that differ with the query: the tiny model has a few words only."""
    rows = []
    for query, texts in requests:
        seed = int.from_bytes(hashlib.sha256(query.encode()).digest()[:4])
        rows += [np.random.default_rng(seed).normal(size=8)] * len(texts)
    return np.array(rows, dtype=np.float32)


class Log:
    """A spool that is written a request at a time."""

    def __init__(self, path):
        self.path, self.number = path, 0
        self.spool = Spool.open(path, create=True)

    def add(self, query, ood=STRANGE, *, times=1, policy=POLICY, **values):
        for _ in range(times):
            self.number += 1
            jitter = (self.number * 7919) % 61  # people are no clock
            defaults = {"timestamp": START + timedelta(seconds=self.number * 97 + jitter)}
            ids = list(TEXTS)[: len(ood)]
            request = request_of(
                self.number, ood, query=query, doc_ids=ids, documents=[TEXTS[i] for i in ids], **(defaults | values)
            )  # fmt: skip
            self.spool.append(rows_of([request], policy))

    def strange(self, count, word="quasar"):
        for n in range(count):
            self.add(f"{word} number{n} {'abcdefghij'[n % 10]}{n}")

    def select(self, bundle, out, config=SMALL, **options):
        options = {"labelled": LabelledQueries(), "items": Items.of_texts(TEXTS), "embed": by_words} | options
        with SpoolStore(self.path) as store:
            return select(config, bundle, store, out=out, **options)


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path / "spool.db")
    yield made
    made.spool.close()


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def queries_of(path):
    return list(dict.fromkeys(row["query"] for row in lines(path)))


def test_searches_that_were_not_reranked_are_no_traffic(log, bundle, tmp_path):
    log.strange(12)
    log.add("quasar number3 d3", times=4)
    alone = log.select(bundle, tmp_path / "alone")
    log.add("quasar number3 d3", (), times=50, reranked=False)
    log.add("never scored", (), times=50, reranked=False)
    again = log.select(bundle, tmp_path / "again")
    assert {**again.log, "until": None} == {**alone.log, "until": None}
    for name in ("control.jsonl", "selected.jsonl"):
        assert lines(tmp_path / "again" / name) == lines(tmp_path / "alone" / name)


@pytest.fixture
def arms(log, bundle, tmp_path):
    """The report of a selection, and the lines of both arms."""
    log.strange(12)
    for n in range(8):
        log.add(f"plain words{n} here{n}", FAMILIAR, policy=EVERY_PAIR)
    report = log.select(bundle, tmp_path / "out", embed=None)  # the bundle's own features
    return report, lines(tmp_path / "out/selected.jsonl"), lines(tmp_path / "out/control.jsonl")


def test_both_arms(arms):
    report, selected, control = arms
    assert {row["arm"] for row in selected} == {"selected"} and {row["arm"] for row in control} == {"control"}
    assert report.selected["pairs"] == 3 * report.selected["queries"] <= 12
    assert report.control == {"queries": 3, "pairs": 9, "drawn": 3, "kept": 0, "unusable": 0, "from": "search"}
    both = {row["query"] for row in selected} & {row["query"] for row in control}
    assert not both
    assert all(row["query"].startswith("quasar") for row in selected)  # plain words are not flagged
    assert report.dropped["not_flagged"] + report.dropped["control"] + report.candidates == report.log["queries"] == 20
    assert list(report.dropped) == list(DROPPED)


def test_the_files_of_a_selection(arms, tmp_path):
    report, _, _ = arms
    assert (tmp_path / "out/kept.jsonl").read_text() == ""
    assert not (tmp_path / "out/work").exists()
    assert SelectReport.read(tmp_path / "out/report.json") == report
    (drawn,) = lines(tmp_path / "out/map.json")
    shown = {kind: {point["query"] for point in drawn["points"] if point["kind"] == kind} for kind in drawn["kinds"]}
    assert shown["selected"] == set(queries_of(tmp_path / "out/selected.jsonl")) and not shown["training"]
    assert len(shown["candidate"]) == report.candidates - report.selected["queries"]


def test_judges_read_what_was_written_and_pairs_of_a_query_stand_together(arms, tmp_path):
    report, selected, control = arms
    tasks = read_tasks([tmp_path / "out/selected.jsonl", tmp_path / "out/control.jsonl"])
    assert [task.task for task in tasks] == [row["task"] for row in selected + control]
    assert len(queries_of(tmp_path / "out/selected.jsonl")) == report.selected["queries"] > 0
    row = selected[0]
    assert row["text"] == TEXTS[row["item_id"]] and len(row["grade_probs"]) == 3 and row["traffic"] == 1


def test_records_and_query_ids_lead_back_to_the_log(log, bundle, tmp_path):
    log.add("quasar one", query_id="q1", slice="sky")
    log.add("Quasar  ONE", query_id="q1", slice="sky")
    log.add("pulsar two", query_id="q2")
    log.add("nebula three", query_id="q2")  # one id for two texts is no id
    log.add("comet four", query_id="q4")
    log.add("comet four", query_id="q5")  # two ids for one text neither
    report = log.select(bundle, tmp_path / "out", dataclasses.replace(SMALL, budget=100, control_queries=0))
    rows = lines(tmp_path / "out/selected.jsonl")
    ids = {row["query"]: row["query_id"] for row in rows}
    assert ids["quasar one"] == "q1"
    assert all(ids[query].startswith("log-") and len(ids[query]) == 20 for query in ids if query != "quasar one")
    assert len(ids) == len(set(ids.values())) == 4
    first = next(row for row in rows if row["query"] == "quasar one")
    assert (first["traffic"], first["slice"]) == (2, "sky")
    position = list(TEXTS).index(first["item_id"])
    with SpoolStore(log.path) as store:
        logged = [pair.record_id for pair in store.pairs() if pair.query_id == "q1" and pair.position == position]
    assert first["records"] == logged and len(logged) == 2
    assert report.selected["slices"] == {"": 9, "sky": 3}


def test_what_is_no_search_of_a_person_is_dropped_and_counted(log, bundle, tmp_path):
    log.strange(3)
    log.add("burst of requests", times=31, timestamp=START)
    log.add("health check", times=25)  # often, and uneven
    for n in range(25):
        log.number += 1
        request = request_of(log.number, STRANGE, query="clockwork", timestamp=START + timedelta(minutes=5 * n))
        log.spool.append(rows_of([request], POLICY))
    log.add("probing", prefix="probe-")
    log.add("aaaaaaah")
    log.add("?!")
    log.add("https://example.org/?a=1")
    log.add("<script>alert</script>")
    config = dataclasses.replace(SMALL, control_queries=0, machine_ids=("probe-",), budget=100)
    report = log.select(bundle, tmp_path / "out", config)
    assert report.dropped["machine"] == 2 and report.log["machine_requests"] == 1
    assert report.dropped["gibberish"] == 4
    assert sorted({q.split()[0] for q in queries_of(tmp_path / "out/selected.jsonl")}) == ["health", "quasar"]


def test_judged_and_near_queries(log, bundle, tmp_path):
    log.add("cover for my old dog")
    log.add("Cover for  my old DOG")  # the same
    log.add("dog old my for cover")  # the same words
    log.add("cover for my very old dog now please soon")
    log.add("cover for my very old dog now please")  # 8 of 9 words
    log.add("judged before this one")
    log.add("one judged before this")
    log.add("held out", FAMILIAR)
    known = LabelledQueries(judged=frozenset({"judged before this one", "held out"}))
    config = dataclasses.replace(SMALL, control_queries=0, budget=100)
    report = log.select(bundle, tmp_path / "out", config, labelled=known)
    assert (report.dropped["judged"], report.dropped["near_judged"], report.dropped["near"]) == (2, 1, 2)
    traffic = {row["query"]: row["traffic"] for row in lines(tmp_path / "out/selected.jsonl")}
    assert traffic == {"cover for my old dog": 3, "cover for my very old dog now please": 2}
    # Only the very same words are one query when the threshold is 1, or there are too many to compare.
    for change in ({"near_threshold": 1.0}, {"near_rows": 2}):
        other = dataclasses.replace(config, **change)
        assert log.select(bundle, tmp_path / str(change), other, labelled=known).dropped["near"] == 1


# ---- the control arm


def test_the_control_arm_is_drawn_from_all_traffic_not_from_what_is_strange(log, bundle, tmp_path):
    for n in range(10):
        log.add(f"strange kind{n} thing{n}")
        log.add(f"plain kind{n} words{n}", FAMILIAR)
    log.add("the head query", FAMILIAR, times=60)
    shares = []
    for seed in range(12):
        config = dataclasses.replace(SMALL, control_queries=4, seed=seed, budget=0)
        log.select(bundle, tmp_path / f"out{seed}", config)
        drawn = queries_of(tmp_path / f"out{seed}/control.jsonl")
        shares.append((sum(q.startswith("strange") for q in drawn), "the head query" in drawn))
    strange, head = np.mean(shares, axis=0)
    assert head > 0.9  # 60 of 80 requests: missed by four draws with chance 1/256 or so
    assert 0.8 < strange < 2.2  # half of the three others, in the mean; flagged or not makes no difference


def test_control_items_do_not_depend_on_what_was_logged(log, bundle, tmp_path):
    """A query whose pairs were not logged has items all the same: a search finds them now."""
    log.add("accident cover travel", FAMILIAR, policy=dataclasses.replace(POLICY, sample_rate=0.0))
    log.select(bundle, tmp_path / "out")
    rows = lines(tmp_path / "out/control.jsonl")
    assert rows and {row["arm"] for row in rows} == {"control"}
    assert all(row["records"] == [] and row["text"] == TEXTS[row["item_id"]] for row in rows)
    assert all(0 <= row["score"] <= 1 and len(row["grade_probs"]) == 3 for row in rows)  # the bundle's own scores
    without = log.select(bundle, tmp_path / "without", items=NO_ITEMS)
    assert without.control == {"queries": 0, "pairs": 0, "drawn": 1, "kept": 0, "unusable": 1, "from": "log"}


def test_half_of_the_control_arm_stays_and_the_rest_may_be_trained_on(log, bundle, tmp_path):
    log.strange(20)
    config = dataclasses.replace(SMALL, control_queries=6)
    log.select(bundle, tmp_path / "one", config)
    before = queries_of(tmp_path / "one/control.jsonl")
    files = [tmp_path / "one/control.jsonl", tmp_path / "one/kept.jsonl"]
    report = log.select(bundle, tmp_path / "two", config, control=files)
    kept, drawn = queries_of(tmp_path / "two/kept.jsonl"), queries_of(tmp_path / "two/control.jsonl")
    assert report.control["kept"] == len(kept) == 3 and set(kept) < set(before)
    assert report.control["drawn"] == len(drawn) == 3 and not set(drawn) & set(before)
    assert not set(before) & set(queries_of(tmp_path / "two/selected.jsonl"))
    assert report.dropped["judged"] == 6
    # Another cycle: the draw is another one, so that nothing stays for ever.
    files = [tmp_path / "two/control.jsonl", tmp_path / "two/kept.jsonl"]
    log.select(bundle, tmp_path / "three", config, control=files)
    assert len(set(queries_of(tmp_path / "three/kept.jsonl")) & set(kept + drawn)) == 3


def test_what_stays_in_the_control_arm_covers_nothing_and_what_leaves_it_does(log, bundle, tmp_path):
    """Everything that was judged is named as trained on, as a cycle and ``--trained`` do: arms are told apart here."""
    log.strange(20)
    config = dataclasses.replace(SMALL, control_queries=6)
    log.select(bundle, tmp_path / "one", config)
    selected, control = (tmp_path / f"one/{arm}.jsonl" for arm in ("selected", "control"))
    known, embedded = LabelledQueries.read([selected, control], [], Items.of_texts(TEXTS).texts), []

    def embed(requests):
        embedded.extend(query for query, _ in requests)
        return by_words(requests)

    report = log.select(bundle, tmp_path / "two", config, labelled=known, control=[control], embed=embed)
    before, kept = queries_of(control), queries_of(tmp_path / "two/kept.jsonl")
    covers = {*queries_of(selected), *before} - set(kept)
    assert (len(before), len(kept), len(known.trained)) == (6, 3, len(covers) + 3)
    assert set(embedded[: len(covers)]) == covers and not set(kept) & set(embedded)
    assert report.dropped["judged"] == len(known.judged) == len(covers) + 3  # judged they are, all of them


# ---- items


def test_items_lead_the_ranking_and_the_last_one_is_there(log, bundle, tmp_path):
    log.add("quasar one", (0.99,) * 6)
    config = dataclasses.replace(SMALL, depth=6, control_queries=0)
    log.select(bundle, tmp_path / "out", config)
    rows = lines(tmp_path / "out/selected.jsonl")
    assert [row["item_id"] for row in rows] == [list(TEXTS)[place] for place in (0, 1, 5)]  # logged best first
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_texts_come_from_the_catalogue_or_from_the_log_and_what_has_none_is_counted(log, bundle, tmp_path):
    log.add("quasar one")
    hashed = dataclasses.replace(POLICY, text="hash")
    log.add("pulsar two", policy=hashed)
    config = dataclasses.replace(SMALL, control_queries=0)
    ids = list(TEXTS)[:4]
    items = Items(lambda wanted: {ids[0]: "the text of today"})
    report = log.select(bundle, tmp_path / "out", config, items=items)
    assert report.dropped["few_items"] == 1  # the second has one text, and a lone pair has no order
    texts = {row["item_id"]: row["text"] for row in lines(tmp_path / "out/selected.jsonl")}
    assert texts[ids[0]] == "the text of today" and texts[ids[3]] == TEXTS[ids[3]]


def test_items_without_an_id_are_known_by_their_text(log, bundle, tmp_path):
    request = request_of(1, STRANGE, query="quasar one", doc_ids=None)
    log.spool.append(rows_of([request], POLICY))
    log.select(bundle, tmp_path / "out", dataclasses.replace(SMALL, control_queries=0), items=NO_ITEMS)
    rows = lines(tmp_path / "out/selected.jsonl")
    assert len({row["item_id"] for row in rows}) == 3
    assert all(row["item_id"].startswith("text-") and len(row["item_id"]) == 21 for row in rows)


def test_what_another_version_ranked_is_scored_again(log, bundle, tmp_path):
    log.add("accident cover travel", policy=dataclasses.replace(POLICY, version="0"))
    config = dataclasses.replace(SMALL, control_queries=0, selector="random")
    log.select(bundle, tmp_path / "out", config)
    from darl_opensearch.scoring import Scorer

    rows = lines(tmp_path / "out/selected.jsonl")
    with Scorer.open(bundle) as scorer:
        scores = scorer.score("accident cover travel", [row["text"] for row in rows])
    np.testing.assert_allclose([row["score"] for row in rows], scores.score, atol=1e-5)
    np.testing.assert_allclose([row["ood_score"] for row in rows], scores.ood_score, atol=1e-5)


# ---- noise, caps, nothing


def test_noise_lies_by_itself_unless_it_is_searched_often(log, bundle, tmp_path):
    log.strange(40)
    log.add("lonely")
    log.add("lonely but loved", times=3)

    def embed(requests):
        """Two groups, and what is lonely at right angles to both and to each other."""
        rows = []
        for number, (query, texts) in enumerate(requests):
            base = np.zeros(8, dtype=np.float32)
            base[{"lonely": 6, "lonely but loved": 7}.get(query, number % 2)] = 1.0
            base[2:6] += 0.1 * np.random.default_rng(len(query) + number).normal(size=4)
            rows += [base] * len(texts)
        return np.array(rows, dtype=np.float32)

    config = dataclasses.replace(SMALL, noise=1.5, control_queries=0, budget=1000)
    report = log.select(bundle, tmp_path / "out", config, embed=embed)
    assert report.dropped["noise"] == 1
    assert "lonely but loved" in queries_of(tmp_path / "out/selected.jsonl")


def test_what_the_selector_is_given(log, bundle, tmp_path, monkeypatch):
    """Costs, traffic and features, as arrays."""
    log.add("quasar one", (0.99, 0.98, 0.97), times=4, slice="sky")
    log.add("pulsar two", (0.99, 0.98))
    log.add("plain words", FAMILIAR)
    seen = []

    def spy(self, candidates, known, budget, rng):
        seen.append((candidates, known, budget))
        return [0]

    monkeypatch.setattr("trainer.dasa.selectors.herding.Herding.__call__", spy)
    known = LabelledQueries((("known", ("a text",)),), frozenset({"known"}))
    log.select(bundle, tmp_path / "out", dataclasses.replace(SMALL, control_queries=0), labelled=known, items=NO_ITEMS)
    ((candidates, features, budget),) = seen
    assert budget == 12 and features.shape == (1, 8)
    assert candidates.cost.tolist() == [2, 3] and candidates.traffic.tolist() == [1, 4]  # by text
    assert candidates.slices == ("", "sky") and candidates.flagged.all() and candidates.caps == {}
    np.testing.assert_allclose(np.linalg.norm(candidates.features, axis=1), 1, rtol=1e-5)
    assert len(queries_of(tmp_path / "out/selected.jsonl")) == 1


def test_a_slice_takes_no_more_than_its_share(log, bundle, tmp_path):
    for n in range(10):
        log.add(f"sky thing{n} quasar{n}", slice="sky")
        log.add(f"sea thing{n} shark{n}", slice="sea")
    config = dataclasses.replace(SMALL, slice_cap=0.5, control_queries=0, budget=24)
    report = log.select(bundle, tmp_path / "out", config)
    assert report.selected["slices"] == {"sea": 12, "sky": 12}


def test_nothing_flagged_is_a_result(log, bundle, tmp_path):
    for n in range(5):
        log.add(f"plain words{n} here{n}", FAMILIAR, policy=EVERY_PAIR)
    report = log.select(bundle, tmp_path / "out")
    assert report.empty and report.to_json()["empty"] is True
    assert (tmp_path / "out/selected.jsonl").read_text() == ""
    assert len(queries_of(tmp_path / "out/control.jsonl")) == 3
    empty = Log(tmp_path / "empty.db")
    assert empty.select(bundle, tmp_path / "none").log["queries"] == 0
    empty.spool.close()


def test_a_dry_run_counts_and_writes_nothing(log, bundle, tmp_path):
    log.strange(12)
    report = log.select(bundle, tmp_path / "out", dry_run=True)
    assert report.dry_run and report.candidates == 9 and report.control["drawn"] == 3
    assert not (tmp_path / "out").exists()


# ---- again


def test_a_killed_run_goes_on_and_ends_alike(log, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CHUNK", 4)
    monkeypatch.setattr("trainer.dasa.embedded.CHUNK", 4)
    monkeypatch.setattr("trainer.dasa.work.BATCH", 16)
    log.strange(20)
    until = START + timedelta(days=9)
    known = LabelledQueries((("known query", ("a text", "another text")),), frozenset({"known query"}))
    whole = log.select(bundle, tmp_path / "whole", labelled=known, until=until)

    seen: Counter[str] = Counter()

    class Killed(Exception):
        pass

    def killer(at):
        def report(what, done, total):
            seen[what] += 1
            if seen.total() == at:
                raise Killed

        return report

    deaths = 0
    for at in range(1, 60):
        seen.clear()
        try:
            again = log.select(bundle, tmp_path / "killed", labelled=known, until=until, report=killer(at))
            break
        except Killed:
            deaths += 1
            # A torn write beyond what was committed.
            if (features := tmp_path / "killed" / "work" / "features.f32").exists():
                with features.open("ab") as file:
                    file.write(b"torn")
    assert deaths >= 3
    assert again == whole
    for name in ("selected", "control", "kept"):
        assert (tmp_path / f"killed/{name}.jsonl").read_text() == (tmp_path / f"whole/{name}.jsonl").read_text()


def test_done_is_done_and_another_selection_needs_another_folder(log, bundle, tmp_path):
    log.strange(12)
    first = log.select(bundle, tmp_path / "out")
    written = (tmp_path / "out/selected.jsonl").stat().st_mtime_ns
    log.strange(3, "later")
    assert log.select(bundle, tmp_path / "out") == first
    assert (tmp_path / "out/selected.jsonl").stat().st_mtime_ns == written
    with pytest.raises(UsageError) as caught:
        log.select(bundle, tmp_path / "out", dataclasses.replace(SMALL, budget=6))
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: the folder holds a selection with another model, settings or judgments. "
        "Choose another folder, or remove it."
    )


def test_selecting_needs_no_torch():
    code = "import sys, trainer.dasa.run; print(sorted({'torch', 'transformers', 'faiss'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ---- wrong input


def test_a_broken_control_file_or_report_is_named(log, bundle, tmp_path):
    log.strange(3)
    (control := tmp_path / "control.jsonl").write_text('{"query": "a", "item_id": "b"}\n')
    with pytest.raises(InputError, match=r"control.jsonl, line 1: field 'text' is empty or not text. Pass"):
        log.select(bundle, tmp_path / "out", control=[control])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text("{}")
    with pytest.raises(InputError, match=r"report.json: not a report of a selection \('log'\). Run the selection"):
        log.select(bundle, tmp_path / "out")
    (tmp_path / "other/work").mkdir(parents=True)
    (tmp_path / "other" / "work" / "log.db").write_bytes(b"no database " * 100)
    with pytest.raises(InputError, match=r"log.db: not a work file \(file is not a database\). Remove it"):
        log.select(bundle, tmp_path / "other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selector": "herdin"}, "unknown selector 'herdin'. Did you mean 'herding'?"),
        (
            {"selector": "typiclust", "params": {"k": 3}},
            "selector 'typiclust' was removed: it did not beat random selection "
            "of flagged queries. Use random_flagged, or herding, the default.",
        ),
        ({"params": {"kk": 1}}, "selector 'herding' has no parameter 'kk'. It takes over, traffic, bandwidth"),
        ({"budget": -1}, "[select] budget is -1. Give 0 or more."),
        ({"items_per_query": 1}, "[select] items_per_query is 1. Give 2 or more."),
        (
            {"depth": 4},
            "[select] depth is 4, less than items_per_query, which is 5. Raise depth to at least items_per_query",
        ),
        ({"slice_cap": 0.0}, "[select] slice_cap is 0.0. Give more than 0, at most 1."),
        ({"near_threshold": 1.5}, "[select] near_threshold is 1.5. Give more than 0, at most 1."),
        ({"control_keep": 2.0}, "[select] control_keep is 2.0. Give 0 to 1."),
        ({"noise": float("nan")}, "[select] noise is nan. Give 0 or more."),
        ({"machine_ids": ("",)}, "[select] machine_ids holds an empty string. Use prefixes such as probe-."),
    ],
)
def test_wrong_settings(values, message):
    with pytest.raises(UsageError) as caught:
        SelectConfig(**values)
    assert str(caught.value).startswith(message)
