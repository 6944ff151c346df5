"""Roll-ups: what the records say, whatever was added, deleted or written by an earlier version."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from datetime import timedelta

import numpy as np
import pytest

from darl_opensearch.ood.rollup import Rollup, copy_to_spool
from darl_opensearch.ood.rows import BATCH, DAY_MS, HOUR_MS
from darl_opensearch.ood.spool import Row, Spool
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.text import same_text
from tests.helpers.traffic import POLICY, START, request_of, rows_of, traffic

LATER = dataclasses.replace(POLICY, version="2")
START_MS = int(START.timestamp() * 1000)
DAY0 = START_MS // DAY_MS * DAY_MS


def spread(count, *, every=timedelta(minutes=11), **values):
    """Requests of some days; every 20th search was not reranked."""
    for number, request in enumerate(traffic(count, **values)):
        moved = dataclasses.replace(request, timestamp=START + number * every, latency_ms=float(number % 97))
        yield (
            moved
            if number % 20
            else request_of(
                number,
                [],
                timestamp=moved.timestamp,
                reranked=False,
                slice=moved.slice,
                prefix=values.get("prefix", "r"),
            )
        )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.db"


def opened(path, rows=(), **values):
    spool = Spool.open(path, create=True, **values)
    for start in range(0, len(rows), 700):
        spool.append(rows[start : start + 700])
    return spool


def everything(spool):
    """All that can be read, by names: ids depend on the order of writing."""
    rollup = Rollup(spool)
    rollup.update()
    found = []
    for unit in (HOUR_MS, DAY_MS):
        for slices in (False, True):
            for total in rollup.totals(unit, DAY0, DAY0 + 9 * DAY_MS, slices=slices):
                key = (unit, total.start_ms, total.line.version, total.line.slice or ("" if slices else None))
                found.append((key, dataclasses.replace(total, line=None)))
    return sorted(found, key=lambda entry: str(entry[0]))


def test_totals_are_what_the_records_say(path):
    requests = list(spread(400))
    with opened(path, rows_of(requests)) as spool:
        rollup = Rollup(spool)
        rollup.update()
        for unit in (HOUR_MS, DAY_MS):
            totals = rollup.totals(unit, DAY0, DAY0 + 9 * DAY_MS)
            for total in totals:
                inside = [r for r in requests if r.timestamp.timestamp() * 1000 // unit * unit == total.start_ms]
                scored = [r for r in inside if r.reranked]
                assert (total.requests, total.not_reranked) == (len(scored), len(inside) - len(scored))
                ood = {}
                for r in scored:
                    ood.setdefault(same_text(r.query), []).append((int(r.scores.is_ood.sum()), len(r.scores)))
                means = np.array([np.mean(pairs, axis=0) for pairs in ood.values()] or np.zeros((0, 2)))
                assert (total.queries, total.pairs) == (len(ood), sum(len(r.scores) for r in scored))
                sums = total.sums
                wanted = [means[:, 0].sum(), means[:, 1].sum(), *(means.T @ means)[[0, 0, 1], [0, 1, 1]]]
                given = [sums.hits, sums.totals, sums.hits_squared, sums.products, sums.totals_squared]
                assert given == pytest.approx(wanted)
                times = sorted(r.latency_ms for r in scored)
                assert (total.p50, total.p95) == (times[len(times) // 2], times[len(times) * 95 // 100])
            assert sum(total.requests + total.not_reranked for total in totals) == 400
        assert rollup.span_ms() == (START_MS, START_MS + 399 * 11 * 60_000)


def test_grades_estimate_all_pairs(path):
    with opened(path, rows_of(spread(600), dataclasses.replace(POLICY, sample_rate=1.0))) as spool:
        rollup = Rollup(spool)
        rollup.update()
        for total in rollup.totals(DAY_MS, DAY0, DAY0 + 9 * DAY_MS):
            assert total.grades == ((2, total.pairs),)  # the most probable of .2, .3 and .5


def test_a_period_may_begin_and_end_within_a_day(path):
    with opened(path, rows_of(spread(400))) as spool:
        rollup = Rollup(spool)
        rollup.update()
        since, until = START_MS + 5 * HOUR_MS, START_MS + 55 * HOUR_MS
        days = rollup.totals(DAY_MS, since, until)
        hours = rollup.totals(HOUR_MS, since, until)
        assert [d.start_ms for d in days] == [DAY0, DAY0 + DAY_MS, DAY0 + 2 * DAY_MS]
        for day in days:
            of_day = [hour for hour in hours if hour.start_ms // DAY_MS == day.start_ms // DAY_MS]
            assert (day.requests, day.ood) == (sum(h.requests for h in of_day), sum(h.ood for h in of_day))
        assert sum(d.requests + d.not_reranked for d in days) == len(
            [n for n in range(400) if 5 * 60 <= 11 * n < 55 * 60]
        )


def test_what_is_shipped_or_evicted_leaves_the_totals(tmp_path):
    rows = rows_of(spread(300)) + rows_of(spread(100, prefix="b"), LATER)
    with opened(tmp_path / "a.db", rows) as spool, opened(tmp_path / "b.db", rows[500:]) as rest:
        everything(spool)
        spool.settle(created=[r.seq for r in spool.take(limit=500, max_bytes=1 << 40)])
        assert everything(spool) == everything(rest)
        assert everything(rest)
    small = 60_000
    with opened(tmp_path / "c.db", rows, max_bytes=small) as spool:
        kept = {r.record_id for r in spool.take(limit=10_000, max_bytes=1 << 40)}
        with opened(tmp_path / "d.db", [row for row in rows if row.record_id in kept]) as rest:
            assert 0 < len(kept) < len(rows) and everything(spool) == everything(rest)


def test_records_that_an_earlier_version_wrote_are_taken_in(tmp_path):
    rows = rows_of(spread(300))
    with opened(tmp_path / "new.db", rows) as new:
        wanted = everything(new)
    opened(tmp_path / "old.db", rows).close()
    with sqlite3.connect(tmp_path / "old.db") as db:
        for trigger in ("record_out_of_rollup", "record_counted"):
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute("DELETE FROM counter WHERE name = 'stored_records'")
        for table in ("line", "request_row", "pair_row", "day_total", "day_grade", "day_changed", "rollup"):
            db.execute(f"DROP TABLE {table}")
    db.close()
    with Spool.open(tmp_path / "old.db") as old:
        said = []
        Rollup(old).update(lambda *told: said.append(told))
        assert said[0] == ("records", len(rows), len(rows)) and said[-1][0] == "days" and len(rows) < BATCH
        assert everything(old) == wanted and old.counters()["stored_records"] == len(rows)


def test_what_cannot_be_read_is_passed_over(path):
    good = rows_of(spread(30, every=timedelta(seconds=1)))
    request, pair = (next(json.loads(r.body) for r in good[3:] if r.kind == kind) for kind in ("request", "pair"))
    changes = ({"candidates": "x"}, {"alpha": math.inf}, {"latency_ms": None})
    bodies = ["", "[]", "{", '{"model": "m"}', *(json.dumps(request | change) for change in changes)]
    bad = [Row(f"bad-{n}", START_MS, "request", body) for n, body in enumerate(bodies)]
    bad += [Row("bad-pair", START_MS, "pair", json.dumps(pair | {"weight": "much"}))]
    with opened(path, [*bad, *good]) as spool:
        rollup = Rollup(spool)
        rollup.update()
        (total, *_) = rollup.totals(DAY_MS, DAY0, DAY0 + DAY_MS)
        assert total.requests + total.not_reranked == 30 and total.line.alpha == 0.05


def test_strange_queries_and_items_are_found_in_a_span(path):
    requests = [
        request_of(0, [0.99, 0.5], query="half", doc_ids=["a", "b"]),
        request_of(1, [0.99, 0.99], query="all", doc_ids=["a", "c"]),
        request_of(2, [1.0, 1.0], query="ALL  farther", doc_ids=["a", "d"]),
        request_of(3, [0.5, 0.5], query="plain", doc_ids=["a", "b"]),
        request_of(90000, [1.0], query="another day"),
    ]
    with opened(path, rows_of(requests, dataclasses.replace(POLICY, sample_rate=1.0))) as spool:
        rollup = Rollup(spool)
        rollup.update()
        line = next(t.line for t in rollup.totals(DAY_MS, DAY0, DAY0 + DAY_MS))
        span = line, START_MS, START_MS + HOUR_MS
        found = rollup.queries(*span, 9)
        assert [(t.body["query"], t.count, t.share_ood, t.distance) for t in found] == [
            ("ALL  farther", 1, 1.0, 2.0), ("all", 1, 1.0, 1.98), ("half", 1, 0.5, 1.98),
        ]  # fmt: skip
        assert [t.body["query"] for t in rollup.queries(*span, 1)] == ["ALL  farther"]
        items = rollup.items(*span, 9)
        assert [(t.body["item_id"], t.count, t.share_ood, t.ood_pairs) for t in items] == [
            ("a", 4.0, 0.75, 3), ("d", 1.0, 1.0, 1), ("c", 1.0, 1.0, 1)
        ]  # fmt: skip
        assert rollup.usual_queries(*span, 9) == ["plain"]


def test_a_past_day_is_added_up_when_the_next_one_is_written(path):
    with opened(path) as spool:
        spool.append(rows_of([request_of(0, [0.5])]))
        spool.append(rows_of([request_of(86400, [0.5])]))
        with spool.reading() as db:
            assert db.execute("SELECT day FROM day_changed").fetchall() == [(DAY0 // DAY_MS + 1,)]
            assert db.execute("SELECT count(*) FROM day_total").fetchone() == (2,)
        spool.append(rows_of([request_of(1, [0.5])]))  # late: readers add that day up again, not each commit
        spool.append(rows_of([request_of(86401, [0.5])]))
        with spool.reading() as db:
            assert db.execute("SELECT count(*) FROM day_changed").fetchone() == (2,)
        assert [total.requests for _, total in everything(spool) if total.start_ms == DAY0] == [2, 2]


def test_an_empty_spool_has_no_span(path):
    with opened(path) as spool:
        rollup = Rollup(spool)
        rollup.update()
        assert rollup.span_ms() is None and rollup.totals(DAY_MS, 0, DAY0) == []


def test_a_copied_period_has_the_figures_of_its_source(tmp_path):
    with opened(tmp_path / "a.db", rows_of(spread(200))) as spool:
        wanted = everything(spool)
    said = []
    with SpoolStore(tmp_path / "a.db", page_records=50) as store:
        until = START + timedelta(days=9)
        copy_to_spool(store, tmp_path / "b.db", since=None, until=until, report=lambda *told: said.append(told))
        copy_to_spool(store, tmp_path / "c.db", since=START + timedelta(days=1), until=until)
    with Spool.open(tmp_path / "b.db") as copied, Spool.open(tmp_path / "c.db") as part:
        assert everything(copied) == wanted and said[-1][1] == copied.counters()["stored_records"]
        Rollup(part).update()
        assert Rollup(part).span_ms()[0] >= START_MS + DAY_MS
