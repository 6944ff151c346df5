"""Figures of the page: those of the drift tests, from roll-ups; which window is looked into; themes."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import numpy as np
import pytest

from darl_opensearch.monitor.drift import drift
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.monitor.figures import Filters, Flagged, choose_window, overview
from darl_opensearch.monitor.themes import Asked, find_themes
from darl_opensearch.ood.rollup import Rollup
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.text import same_text
from tests.helpers.drift import DAY, STRANGE, USUAL, write_log
from tests.helpers.traffic import START, request_of, rows_of
from trainer.dasa.config import SelectConfig
from trainer.dasa.work import GatheredLog

CONFIG = DriftConfig(window="1d")
UNTIL = DAY + timedelta(days=8, hours=5)


@pytest.fixture(scope="module")
def log(world, tmp_path_factory):
    """Eight days: the sixth is strange, from the fifth on another version serves, on the second a query is repeated."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("log") / "ood.sqlite"
    days = [world.day(d, world.queries(70, rng), repeats=9 * (d == 1)) for d in range(8)]
    days[5] = world.day(5, world.queries(70, rng, [*STRANGE, *USUAL[:3]]), push=1.0)
    days[6] = days[6][:20]  # too few queries
    write_log(path, [r for day in days[:4] for r in day], world.policy())
    return write_log(path, [r for day in days[4:] for r in day], world.policy(version="2"))


def figures(path, config=CONFIG, **filters):
    with Spool.open(path) as spool:
        rollup = Rollup(spool)
        rollup.update()
        given = Filters(**({"until": UNTIL} | filters))
        return overview(rollup, given, config, store="log", counters=spool.counters())


def test_windows_are_those_of_the_drift_tests(log):
    with SpoolStore(log) as store:
        tested = drift(store, None, CONFIG, until=UNTIL)
    found = figures(log)
    assert len(found.windows) == len(tested.windows) == 8
    for ours, theirs in zip(found.windows, tested.windows, strict=True):
        for name in ("model", "version", "alpha", "start", "end", "requests", "queries", "verdict"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert dataclasses.astuple(ours.share_ood) == pytest.approx(dataclasses.astuple(theirs.share_ood))
        assert [(t.slice, t.queries) for t in ours.tests] == [(t.slice, t.queries) for t in theirs.tests]
        assert [t.drift for t in ours.tests] == [t.drift for t in theirs.tests]
        assert [t.p_holm for t in ours.tests] == pytest.approx([t.p_holm for t in theirs.tests], rel=1e-6)
    assert found.windows[5].verdict == "drift" and found.windows[6].verdict == "too few queries"
    assert found.latest.start == tested.latest.start


def test_it_opens_at_the_highest_drift(log):
    found = figures(log)
    focus = found.focus
    assert focus.window == found.windows[5] and focus.window.start == DAY + timedelta(days=5)
    assert found.models == ("tiny 1", "tiny 2") and found.slices == ("pet", "travel")
    assert {s.name for s in focus.window.slices} == {"pet", "travel"}
    assert focus.queries[0].share_ood >= focus.queries[-1].share_ood and len(focus.queries) == 10
    assert focus.themes[0].word in STRANGE and focus.themes[0].ood_pairs >= focus.themes[1].ood_pairs
    assert len(focus.items) == 10 and focus.items[0].item_id.startswith("i-")
    calm = [w for w in found.windows if w.verdict != "drift"]
    assert choose_window(calm) == calm[-1] and choose_window([]) is None


def test_filters(log):
    assert {w.name for w in figures(log, model="tiny 1").windows} == {"tiny 1"}
    pet = figures(log, slice="pet")
    whole = figures(log)
    for part, all_traffic in zip(pet.windows, whole.windows, strict=True):
        shares = {s.name: s for s in all_traffic.slices}
        assert part.requests == shares["pet"].requests and part.share_ood == shares["pet"].share_ood
        assert part.slices == ()
    assert all(q.text for q in pet.focus.queries)
    chosen = figures(log, window=DAY + timedelta(days=1))
    assert chosen.focus.window.start == DAY + timedelta(days=1) and len(chosen.windows) == 8
    some = figures(log, since=DAY + timedelta(days=2, minutes=5), until=DAY + timedelta(days=4, hours=20))
    assert [w.verdict for w in some.windows] == ["incomplete", "no drift", "incomplete"]
    assert figures(log, model="none").focus is None and figures(log, since=UNTIL).windows == ()


def test_a_window_is_named_by_any_time_in_it(log):
    assert figures(log, window=DAY + timedelta(days=1, hours=23, minutes=59)).focus.window.start == DAY + timedelta(
        days=1
    )
    assert figures(log, window=DAY + timedelta(days=5)).focus == figures(log).focus
    assert figures(log, window=DAY - timedelta(minutes=1)).focus == figures(log).focus  # there is none


def test_flagged_queries_are_those_of_the_selection(log, tmp_path):
    """The same queries as darl select counts, with its defaults, before it leaves any out."""
    config, found = SelectConfig(), figures(log).focus
    with SpoolStore(log) as store, GatheredLog(tmp_path / "work.db", "x") as work:
        span = found.window.start, found.window.end
        work.gather(store, since=span[0], until=span[1], model=("tiny", "2"), depth=config.depth)
        queries = work.queries()
    flagged = queries.ood_share >= config.flagged_share
    assert found.flagged == Flagged(int(flagged.sum()), int(queries.requests[flagged].sum()), config.flagged_share)
    assert 0 < found.flagged.queries < found.window.queries
    by_text = {queries.keys[row] for row in np.flatnonzero(flagged)}
    asked = [asked for theme in found.themes for asked in theme.queries]
    assert {same_text(a.query) for a in asked if a.flagged} == by_text


def test_a_query_is_flagged_by_its_average_over_searches(tmp_path):
    ood = [[0.99], [0.1] * 9]  # 1 of 1, then 0 of 9: .5 on average, 1 in 10 of its pairs
    with Spool.open(tmp_path / "log.db", create=True) as spool:
        spool.append(rows_of([request_of(n, scores, query="q") for n, scores in enumerate(ood)]))
        spool.append(rows_of([request_of(5, [], query="nothing found"), request_of(6, [], query="q", reranked=False)]))
    found = figures(tmp_path / "log.db").focus
    assert found.flagged == Flagged(1, 2) and found.themes[0].queries[0].flagged


def test_a_short_period_is_cut_into_hours(log):
    found = figures(log, DriftConfig(), since=DAY + timedelta(days=1), until=DAY + timedelta(days=2))
    assert found.span_s == 3600 and sum(w.requests for w in found.windows) == 79
    assert figures(log, DriftConfig()).span_s == 86400


def test_an_empty_log_and_one_of_a_single_record(tmp_path):
    with Spool.open(tmp_path / "one.db", create=True):
        empty = figures(tmp_path / "one.db")
    assert (empty.windows, empty.focus, empty.latest, empty.models) == ((), None, None, ())
    with Spool.open(tmp_path / "one.db") as spool:
        spool.append(rows_of([request_of(0, [0.99], query="only")])[:1])
    one = figures(tmp_path / "one.db")
    (window,) = one.windows
    assert (window.requests, window.verdict, window.grades) == (1, "too few queries", ())
    assert one.focus.queries[0].text == "only" and one.focus.items == ()
    assert one.since == START and json.dumps(one.to_json())


def test_all_is_json(log):
    values = json.loads(json.dumps(figures(log).to_json(), allow_nan=False))
    assert values["windows"][5]["reasons"] and values["focus"]["window"]["start"] == "2026-03-06T00:00:00.000Z"
    assert values["latest"] == "2026-03-08T00:00:00.000Z" and values["span_s"] == 86400


# ---- themes


def test_a_theme_is_a_word_that_ordinary_traffic_lacks():
    strange = [Asked(f"my quantum {w} policy", 1, 5) for w in "abc"] + [Asked(f"policy jazz {w}", 1, 1) for w in "ab"]
    themes = find_themes([*strange, Asked("Policy alone", 1, 1)], ["my policy", "policy for skis", "my car"] * 5)
    assert [(t.word, len(t.queries), t.ood_pairs) for t in themes] == [("quantum", 3, 15), ("jazz", 2, 2), ("", 1, 1)]
    assert find_themes([], []) == []
    assert [t.word for t in find_themes([Asked("policy", 1, 1)] * 3, ["policy"] * 9)] == [""]
