"""Drift of a log: quiet without, loud with, and never fooled by how the log is kept."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import numpy as np
import pytest

from darl_opensearch.bundle import REFERENCE_QUERIES, Bundle, DriftReference
from darl_opensearch.errors import BundleError, UsageError
from darl_opensearch.monitor.drift import DriftConfig, drift, parse_window
from darl_opensearch.monitor.drift import windows as windows_module
from darl_opensearch.monitor.drift.sample import sample_window, thin_reference
from darl_opensearch.monitor.drift.two_sample import Clusters, two_sample_tests
from darl_opensearch.monitor.drift.windows import read_windows
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.scoring.embed import Embedder
from darl_opensearch.settings import read_fields
from tests.helpers.drift import ALPHA, DAY, STRANGE, write_log
from tests.helpers.traffic import POLICY, request_of

UNTIL = DAY + timedelta(days=60)
DAILY = DriftConfig(window="1d", one_in=20)


def judge(path, bundle, config=DAILY, **values):
    with SpoolStore(path) as store:
        return drift(store, bundle, config, **({"until": UNTIL, "threads": 1} | values))


def names(window):
    return {(test.test, test.slice) for test in window.tests}


@pytest.fixture(scope="module")
def quiet(world, tmp_path_factory):
    """30 days of traffic like the calibration's, of which 5 % of what is not OOD is logged."""
    return write_log(tmp_path_factory.mktemp("quiet") / "log.db", world.traffic(30, 120), world.policy(0.05))


def test_a_log_of_a_twentieth_of_the_ordinary_traffic_does_not_alarm(world, quiet):
    """30 windows at level 1/20: 1.5 alarms are expected at most; more than 5 have a chance below .4 %."""
    result = judge(quiet, world.bundle)
    assert len(result.windows) == 30 and all(w.verdict in ("drift", "no drift") for w in result.windows)
    assert sum(w.verdict == "drift" for w in result.windows) <= 5
    for test in ("share", "mmd", "auc"):
        p = np.array([t.p for w in result.windows for t in w.tests if t.test == test and t.slice is None])
        assert len(p) == 30 and (p <= 0.1).sum() <= 8 and np.median(p) > 0.2
    assert all(w.sample.rate == pytest.approx(0.05) for w in result.windows)


def test_the_logged_pairs_as_they_are_would_alarm(world, quiet):
    """What the last test owes to the draw: without it, the same log is far from the same reference."""
    reference = world.bundle.reference()
    with SpoolStore(quiet) as store:
        logged = {}
        for pair in store.pairs(until=DAY + timedelta(days=6)):
            logged.setdefault(pair.query, []).append(pair.item_text)
    with Embedder(world.bundle, threads=1) as embedder:
        seen = Clusters(embedder.embed(list(logged.items())), np.array([len(texts) for texts in logged.values()]))
    known = Clusters(reference.features, reference.sizes)
    assert two_sample_tests(known, seen, permutations=999, folds=5, seed=[1])["auc"].p <= 0.01


def test_the_sample_is_uniform_over_the_pairs_that_were_scored(world, quiet):
    """OOD pairs are ``alpha`` of it, as of the traffic, where they are most of the log."""
    with SpoolStore(quiet) as store:
        pairs = list(store.pairs())
        assert np.mean([p.is_ood for p in pairs]) > 0.6
        (window,) = read_windows(store, None, since=None, until=UNTIL, max_queries=10_000, seed=0)
        sample = sample_window(store, window, world.bundle.reference(), max_pairs=10_000, seed=0, texts=None)
    ood = {(p.query, p.item_text) for p in pairs if p.is_ood}
    drawn = [(q, text) for q, texts in zip(sample.queries, sample.texts, strict=True) for text in texts]
    share = np.mean([pair in ood for pair in drawn])
    assert len(drawn) > 1500 and abs(share - ALPHA) < 0.03
    assert max(map(len, sample.texts)) == 3  # no more of a query than the reference has


def test_a_search_that_was_not_reranked_is_in_no_window(tmp_path):
    requests = [request_of(0, [0.5] * 3), request_of(1, [], reranked=False), request_of(2, [], reranked=False)]
    with SpoolStore(write_log(tmp_path / "spool.db", requests, POLICY)) as store:
        (window,) = read_windows(store, None, since=None, until=UNTIL, max_queries=10, seed=0)
    assert (window.requests, list(window.queries), window.last) == (1, ["query 0"], requests[0].timestamp)


def test_the_reference_passes_the_same_draw(world):
    reference = world.bundle.reference()
    kept, slices = thin_reference(reference, 0.05, np.random.default_rng(0))
    some = 1 - 0.95**20  # of 20 candidates any is drawn
    assert abs(len(kept) / 150 - some) < 0.12 and len(slices) == len(kept)
    assert kept.sizes.max() <= 3 and kept.sizes.sum() == len(kept.features)
    whole, _ = thin_reference(reference, 1.0, np.random.default_rng(0))
    assert np.array_equal(whole.features, reference.features)


def test_queries_that_retrieve_little_do_not_look_like_drift():
    """A rare word finds 2 items, a usual one 30: at a rate of .1 the log has a pair of every fifth and of nearly every.

    The reference has pairs of each, until it passes the same draw: 100 logs without drift, at level .1.
    """
    rng = np.random.default_rng(21)

    def draw(count):
        candidates = np.where(rng.random(count) < 0.5, 2, 30)
        centre = rng.standard_normal((count, 6)) + 1.5 * (candidates == 2)[:, None]
        return candidates, centre

    def pairs(centre, sizes):
        rows = np.repeat(centre, sizes, axis=0)
        return (rows + 0.3 * rng.standard_normal(rows.shape)).astype(np.float32)

    alarms = {"thin_reference": 0, "whole": 0}
    for place in range(100):
        candidates, centre = draw(100)
        sizes = np.minimum(candidates, 3)
        reference = DriftReference(pairs(centre, sizes), sizes, candidates, ("",) * 100)
        candidates, centre = draw(100)
        logged = np.minimum(rng.binomial(candidates, 0.1), 3)
        window = Clusters(pairs(centre, logged), logged[logged > 0])
        known = {
            "thin_reference": thin_reference(reference, 0.1, rng)[0],
            "whole": Clusters(reference.features, reference.sizes),
        }
        for name, clusters in known.items():
            said = two_sample_tests(clusters, window, permutations=99, folds=4, seed=[place])
            alarms[name] += (said["mmd"].p <= 0.1) + (said["auc"].p <= 0.1)
    assert alarms["thin_reference"] <= 2 * 10 + 16 and alarms["whole"] >= 100


def test_other_words_are_drift_of_features_even_where_the_share_is_as_it_was(world, tmp_path):
    requests = [*world.traffic(1, 120), *(
        world.day(1, world.queries(120, np.random.default_rng(5), STRANGE))
    )]  # fmt: skip
    result = judge(write_log(tmp_path / "log.db", requests, world.policy()), world.bundle)
    before, after = result.windows
    assert (before.verdict, after.verdict) == ("no drift", "drift")
    said = {test.test: test for test in after.tests if test.slice is None}
    assert said["mmd"].drift and said["auc"].drift and not said["share"].drift
    assert said["auc"].value > 0.9 and result.start_cycle
    assert any("tells window and reference apart" in reason for reason in result.reasons)


def test_a_higher_share_is_drift_also_without_a_bundle(world, tmp_path):
    queries = world.queries(200, np.random.default_rng(6))
    path = write_log(tmp_path / "log.db", world.day(0, queries, push=1.0), world.policy())
    for bundle in (world.bundle, None):
        result = judge(path, bundle)
        (window,) = result.windows
        assert result.start_cycle and result.reasons[0].startswith("share OOD")
        assert ({"share"} if bundle is None else {"share", "mmd", "auc"}) == {t.test for t in window.tests}
    assert {s for _, s in names(window)} == {None, "pet", "travel"}


def test_one_slice_alone_is_found(world, tmp_path):
    queries = world.queries(300, np.random.default_rng(7))
    requests = [
        world.request(i, q, DAY + timedelta(seconds=i), push=1.5 if world.slice(q) == "pet" else -0.3)
        for i, q in enumerate(queries)
    ]
    (window,) = judge(write_log(tmp_path / "log.db", requests, world.policy(1.0)), world.bundle).windows
    by_slice = {t.slice: t.drift for t in window.tests if t.test == "share"}
    assert by_slice["pet"] and not by_slice["travel"]
    assert {("mmd", "pet"), ("auc", "travel")} <= names(window)
    assert any(reason.startswith("slice 'pet': share OOD") for reason in window.reasons)


def test_a_query_that_is_asked_a_thousand_times_is_one_query(world, tmp_path):
    queries = world.queries(100, np.random.default_rng(8))
    queries.sort(key=lambda q: -(world.distances(q, world.retrieved(q)) > np.quantile(world.calibration, 0.9)).mean())
    path = write_log(tmp_path / "log.db", world.day(0, queries, repeats=1000), world.policy())
    (window,) = judge(path, world.bundle).windows
    assert (window.requests, window.queries, window.verdict) == (1100, 100, "no drift")
    assert window.share_ood.value < 0.2 and window.sample.pairs <= 200


def test_windows_of_a_span_are_those_of_the_calendar(world, quiet):
    assert [w.start.day for w in judge(quiet, None, until=DAY + timedelta(days=3)).windows] == [1, 2, 3]
    later = judge(quiet, None, since=DAY + timedelta(hours=0.2), until=DAY + timedelta(days=2, hours=0.3))
    assert [w.verdict for w in later.windows] == ["incomplete", "no drift", "incomplete"]
    assert later.latest.start == DAY + timedelta(days=1)
    assert [w.tests for w in later.windows if w.verdict == "incomplete"] == [(), ()]


def test_a_reader_that_takes_its_time_reads_the_same(quiet, monkeypatch):
    """The store is asked anew after each record, and gives each once."""
    until = DAY + timedelta(days=1)
    once = judge(quiet, None, DriftConfig(window="50"), until=until)
    monkeypatch.setattr(windows_module, "PATIENCE_S", -1.0)
    assert judge(quiet, None, DriftConfig(window="50"), until=until) == once
    assert [w.requests for w in once.windows] == [50, 50, 20]


def test_windows_of_a_number_of_requests(world, quiet):
    result = judge(quiet, None, DriftConfig(window="1000"))
    assert [(w.requests, w.verdict) for w in result.windows[-2:]] == [(1000, "no drift"), (600, "incomplete")]
    (whole,) = judge(quiet, None, DriftConfig()).windows
    assert whole.requests == 3600


def test_versions_have_windows_of_their_own(world, tmp_path):
    path = write_log(tmp_path / "log.db", world.day(0, world.queries(60, np.random.default_rng(1))), world.policy(1.0))
    newer = [dataclasses.replace(r, request_id=f"n{r.request_id}", timestamp=r.timestamp + timedelta(hours=1))
             for r in world.day(0, world.queries(50, np.random.default_rng(2)), push=3)]  # fmt: skip
    write_log(path, newer, world.policy(1.0, version="2"))
    result = judge(path, world.bundle)
    one, two = sorted(result.windows, key=lambda w: w.version)
    assert (one.queries, two.queries) == (60, 50) and one.sample and not two.sample
    assert two.notes == ("not the bundle's version: only shares were tested",)
    assert two.verdict == "drift" and not result.start_cycle  # of the bundle's version nothing has drifted
    assert judge(path, None).start_cycle


def test_one_request_id_for_all_requests_mixes_nothing_up(world, tmp_path):
    queries = world.queries(80, np.random.default_rng(9))
    requests = world.day(0, queries, repeats=40)
    own = judge(write_log(tmp_path / "own.db", requests, world.policy(1.0)), world.bundle)
    constant = [dataclasses.replace(request, request_id="constant") for request in requests]
    (window,) = judge(write_log(tmp_path / "one.db", constant, world.policy(1.0)), world.bundle).windows
    assert (window.requests, window.queries, window.sample.pairs) == (80, 80, own.windows[0].sample.pairs)
    assert {t.test for t in window.tests} == {"share", "mmd", "auc"} and window.verdict == own.windows[0].verdict


def test_a_large_window_is_sampled_by_query_and_says_so(world, tmp_path):
    path = write_log(tmp_path / "log.db", world.day(0, world.queries(400, np.random.default_rng(3))), world.policy(1.0))
    config = DriftConfig(max_queries=100, max_pairs=100)
    (window,), (again,) = (judge(path, world.bundle, config).windows for _ in range(2))
    assert (window.requests, window.queries, window.sampled) == (400, 100, True)
    assert "a random sample of 100 queries" in window.notes[0]
    assert 100 <= window.sample.pairs < 103 and window == again
    assert window != judge(path, world.bundle, dataclasses.replace(config, seed=1)).windows[0]


def test_texts_that_were_not_logged_are_looked_up_or_counted(world, tmp_path):
    queries = world.queries(80, np.random.default_rng(4))
    path = write_log(tmp_path / "log.db", world.day(0, queries), world.policy(1.0, text="none"))
    (window,) = judge(path, world.bundle).windows
    assert "have no item text; pass the index that holds them (--index)" in window.notes[0]
    assert {t.test for t in window.tests} == {"share"}
    texts = {f"i-{i}": text for i, text in enumerate(world.items)}
    (window,) = judge(path, world.bundle, texts=lambda ids: texts).windows
    assert window.sample.unjoined == 0 and {t.test for t in window.tests} == {"share", "mmd", "auc"}
    (window,) = judge(path, world.bundle, texts=lambda ids: {k: texts[k] for k in ids[1:]}).windows
    assert 0 < window.sample.unjoined < 20
    few = dict(list(texts.items())[:40])
    (window,) = judge(path, world.bundle, texts=lambda ids: few).windows
    assert "neither in the log nor in the item index" in window.notes[0]


def test_a_log_that_is_not_what_it_says_is_not_tested(world, tmp_path):
    requests = world.day(0, world.queries(80, np.random.default_rng(9)))
    only = write_log(tmp_path / "only.db", requests, world.policy(0.0))
    (window,) = judge(only, world.bundle).windows
    assert "score with --ood-sample-rate above 0" in window.notes[0] and window.sample is None
    mixed = write_log(tmp_path / "mixed.db", requests[:40], world.policy(0.0))
    write_log(mixed, requests[40:], world.policy(0.5))
    (window,) = judge(mixed, world.bundle).windows
    assert "pairs were lost, or some scorers log OOD pairs only" in window.notes[0]


def test_two_rates_are_one_sample(world, tmp_path):
    requests = world.day(0, world.queries(300, np.random.default_rng(9)))
    path = write_log(tmp_path / "log.db", requests[:150], world.policy(0.8))
    write_log(path, requests[150:], world.policy(0.1))
    (window,) = judge(path, world.bundle).windows
    assert window.sample.rate == pytest.approx(0.1) and window.verdict == "no drift"


def test_too_few_queries_are_not_tested(world, tmp_path):
    path = write_log(tmp_path / "log.db", world.day(0, world.queries(29, np.random.default_rng(1))), world.policy())
    result = judge(path, world.bundle)
    assert [w.verdict for w in result.windows] == ["too few queries"]
    assert "a test needs 30" in result.windows[0].notes[0]
    assert not result.start_cycle and result.latest is None and result.reasons == ()
    few = "nothing could be tested for drift: 29 queries; a test needs 30"
    assert result.why_not == few


def test_no_drift_is_said_only_where_it_was_tested(world, quiet, tmp_path):
    empty = tmp_path / "empty.db"
    with SpoolStore(write_log(empty, [], world.policy())) as store:
        nothing = drift(store, world.bundle, since=DAY).why_not
        assert nothing == f"the log ({empty}) holds no requests of tiny 1 since 2026-03-01 00:00"
    later = world.day(0, world.queries(40, np.random.default_rng(1)))
    other = judge(write_log(tmp_path / "log.db", later, world.policy(1.0, version="2")), world.bundle)
    assert other.why_not.endswith("holds no requests of tiny 1, only of tiny 2")
    assert judge(quiet, None, DriftConfig(window="10000")).why_not == (
        "nothing could be tested for drift: the window is not over"
    )
    assert judge(quiet, world.bundle, until=DAY + timedelta(days=1)).why_not == "there is no drift"


def test_lists_of_another_length_are_named(world, tmp_path):
    requests = []
    for r in world.day(0, world.queries(80, np.random.default_rng(1))):
        cut = dataclasses.replace(r.scores, data=r.scores.data[:8])
        requests.append(dataclasses.replace(r, documents=r.documents[:8], doc_ids=r.doc_ids[:8], scores=cut))
    (window,) = judge(write_log(tmp_path / "log.db", requests, world.policy(1.0)), world.bundle).windows
    assert "requests rank 8 items but reference queries 20" in window.notes[0]
    assert "set [ood] depth" in window.notes[0]


def test_a_bundle_without_a_reference_tests_the_share(world, quiet, tmp_path):
    from tests.helpers.bundles import tiny_bundle

    bare = tiny_bundle(tmp_path / "bare", alpha=ALPHA)
    (window,) = judge(quiet, bare, until=DAY + timedelta(days=1)).windows
    assert "this bundle has no ood/reference.npy. Export the model again" in window.notes[0]
    assert {t.test for t in window.tests} == {"share"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "damaged"),
        ('{"queries": [{"rows": 3}]}', "damaged"),
        ('{"queries": [{"rows": 3, "candidates": 20, "slice": ""}]}', "do not match the row counts of the queries"),
    ],
)
def test_a_damaged_reference_is_refused(world, tmp_path, text, says):
    from tests.helpers.bundles import copy_bundle, correct_digests

    folder = copy_bundle(world.bundle, tmp_path / "copy")
    (folder / REFERENCE_QUERIES).write_text(text)
    with pytest.raises(BundleError, match=f"reference.json: .*{says}.*Export the model again"):
        Bundle.open(correct_digests(folder)).reference()


def test_the_report_as_json_is_json(world, quiet):
    data = json.loads(json.dumps(judge(quiet, world.bundle, until=DAY + timedelta(days=1)).to_json(), allow_nan=False))
    assert (data["bundle"], data["one_in"], data["start_cycle"]) == ("tiny 1", 20, False)
    (window,) = data["windows"]
    assert window["start"] == "2026-03-01T00:00:00.000Z" and window["verdict"] == "no drift"
    assert {"test", "slice", "value", "expected", "queries", "p", "p_holm", "drift"} == set(window["tests"][0])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"window": "1y"}, "'1y' is neither a span nor a number of requests. Use 12h, 1d or 5000"),
        ({"window": "0d"}, "neither a span"),
        ({"one_in": 1}, "one_in is 1. Give 2 to 1000"),
        ({"one_in": 2000}, "one_in is 2000. Give 2 to 1000"),
        ({"permutations": 9}, "permutations is 9. Give 99 or more"),
        ({"min_queries": 12, "folds": 10}, "12 queries are too few for 10 folds. Set min_queries to at least 20"),
    ],
)
def test_a_configuration_out_of_range_is_refused(values, says):
    with pytest.raises(UsageError) as err:
        DriftConfig(**values)
    assert says in str(err.value)


def test_every_key_of_the_configuration_has_help():
    assert all(declared.field.help for declared in read_fields(DriftConfig).values())
    assert parse_window("2w") == timedelta(weeks=2) and parse_window("500") == 500 and parse_window("") is None
