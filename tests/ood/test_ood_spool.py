"""The spool: what is committed stays, what does not fit is counted, and everyone may open it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError
from darl_opensearch.ood.spool import ROW_OVERHEAD_BYTES, Row, Spool, SpoolError
from tests.helpers.traffic import rows_of, traffic


def row(number: int, size: int = 100) -> Row:
    return Row(f"id-{number}", number, "pair", "x" * size)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.db"


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.lists(st.integers(1, 3000), min_size=1, max_size=20), min_size=1, max_size=12),
    limit=st.integers(4096, 40_000),
)
def test_the_bound_holds_and_every_record_is_accounted_for(tmp_path_factory, sizes, limit):
    path = tmp_path_factory.mktemp("spool") / "spool.db"
    number = 0
    with Spool.open(path, create=True, max_bytes=limit) as spool:
        for batch in sizes:
            rows = [row(number + i, size) for i, size in enumerate(batch)]
            number += len(rows)
            spool.append(rows)
            counts = spool.counters()
            kept = spool.take(limit=10_000, max_bytes=1 << 40)
            assert counts["stored_bytes"] == sum(len(r.body) + ROW_OVERHEAD_BYTES for r in kept) <= limit
            assert counts["stored_records"] == len(kept)
            assert counts["spooled_records"] == number == len(kept) + counts["evicted"]
            # Oldest first: what is left is the tail.
            assert [r.record_id for r in kept] == [f"id-{i}" for i in range(number - len(kept), number)]


def test_the_file_does_not_grow_beyond_its_bound(path):
    with Spool.open(path, create=True, max_bytes=1_000_000) as spool:
        for start in range(0, 20_000, 500):
            spool.append([row(start + i, 500) for i in range(500)])
    assert path.stat().st_size < 2_000_000


def test_a_repeat_is_refused_and_counted(path):
    with Spool.open(path, create=True) as spool:
        assert spool.append([row(1), row(2)]).records == 2
        again = spool.append([row(2), row(3)])
        assert (again.records, again.repeated) == (1, 1)
        assert spool.counters()["repeated"] == 1
        assert [r.record_id for r in spool.take()] == ["id-1", "id-2", "id-3"]


def test_take_stops_at_its_bounds_but_never_stalls(path):
    with Spool.open(path, create=True) as spool:
        spool.append([row(i, 1000) for i in range(10)])
        assert len(spool.take(limit=3)) == 3
        assert len(spool.take(max_bytes=2600)) == 2
        assert len(spool.take(max_bytes=1)) == 1


def test_pages_go_by_time_then_id_and_miss_nothing(path):
    rows = [Row(f"{i:02}", 1000 * (i % 3), "pair" if i % 2 else "request", "{}") for i in range(30)]
    with Spool.open(path, create=True) as spool:
        spool.append(rows)
        seen, after = [], None
        while page := spool.page(after=after, limit=4):
            seen += [(r.timestamp_ms, r.record_id) for r in page]
            after = seen[-1]
        assert seen == sorted((r.timestamp_ms, r.record_id) for r in rows)
        some = spool.page(kind="pair", since_ms=1000, until_ms=2000)
        assert [r.record_id for r in some] == [r.record_id for r in rows if r.kind == "pair" and r.timestamp_ms == 1000]


def test_settling_twice_counts_once(path):
    with Spool.open(path, create=True) as one, Spool.open(path) as two:
        one.append([row(1), row(2), row(3)])
        batch = one.take()
        one.settle(created=[batch[0].seq], dead={batch[1].seq: "400: why"})
        two.settle(created=[batch[0].seq], already_there=[batch[2].seq], dead={batch[1].seq: "400: why"})
        counts = one.counters()
        assert (counts["shipped"], counts["already_there"], counts["dead_letters"]) == (1, 1, 1)
        assert counts["stored_records"] == 0
        letter = one.dead_letters()[0]
        assert (letter.record_id, letter.reason) == ("id-2", "400: why")
        assert one.revive() == 1
        assert [r.record_id for r in one.take()] == ["id-2"]
        assert one.counters()["stored_dead_letters"] == 0


def test_dead_letters_count_against_the_bound_and_go_first(path):
    with Spool.open(path, create=True, max_bytes=10_000) as spool:
        spool.append([row(i, 1000) for i in range(4)])
        batch = spool.take()
        spool.settle(dead={r.seq: "400" for r in batch})
        spool.append([row(10 + i, 1000) for i in range(6)])
        counts = spool.counters()
        assert counts["evicted"] == 0 and counts["evicted_dead_letters"] > 0
        assert counts["stored_bytes"] <= 10_000


def test_only_the_owner_can_read_it(path):
    with Spool.open(path, create=True) as spool:
        spool.append([row(1)])
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 100, None])
def test_what_is_not_a_spool_is_refused_in_one_line(path, content):
    with pytest.raises(InputError, match="the spool does not exist"):
        Spool.open(path)
    if content:
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
    with pytest.raises(InputError, match=r"spool\.db: .*(cannot be used|not an OOD spool)"):
        Spool.open(path, create=True)


def test_a_spool_that_is_held_too_long_is_one_line(path, monkeypatch):
    monkeypatch.setattr("darl_opensearch.io.sqlite.BUSY_S", 0.05)
    with Spool.open(path, create=True) as spool:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match=r"the spool failed \(database is locked\)"):
            spool.append([row(1)])
        other.execute("ROLLBACK")
        other.close()
        assert spool.append([row(1)]).records == 1


def test_another_format_is_refused(path):
    Spool.open(path, create=True).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(InputError, match="has format 7, but this version reads format 1"):
        Spool.open(path)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="the spool cannot be created"):
        Spool.open("/proc/none/spool.db", create=True)


def test_many_open_a_new_spool_at_once(path):
    """Several processes of one server start together."""
    code = f"""
        import sys
        from darl_opensearch.ood.spool import Row, Spool
        who = sys.argv[1]
        with Spool.open({str(path)!r}, create=True, max_bytes=10_000_000) as spool:
            for i in range(20):
                spool.append([Row(f"{{who}}-{{i}}-{{j}}", i, "pair", "{{}}") for j in range(5)])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen([*command, str(n)]) for n in range(4)]
    assert [p.wait(60) for p in running] == [0] * 4
    with Spool.open(path) as spool:
        assert spool.counters()["stored_records"] == spool.counters()["spooled_records"] == 4 * 20 * 5


def test_a_writer_and_two_shippers_lose_nothing_and_share_the_work(path):
    rows = rows_of(traffic(60))
    done = threading.Event()
    shipped: list[str] = []
    lock = threading.Lock()
    with Spool.open(path, create=True) as spool:

        def ship():
            with Spool.open(path) as mine:
                while True:
                    finished = done.is_set()
                    batch = mine.take(limit=7)
                    with lock:
                        shipped.extend(r.record_id for r in batch)
                    mine.settle(created=[r.seq for r in batch])
                    if finished and not batch:
                        return

        threads = [threading.Thread(target=ship) for _ in range(2)]
        for thread in threads:
            thread.start()
        for start in range(0, len(rows), 10):
            spool.append(rows[start : start + 10])
        done.set()
        for thread in threads:
            thread.join(30)
        counts = spool.counters()
    assert set(shipped) == {r.record_id for r in rows}
    assert counts["shipped"] == counts["spooled_records"] == len(rows)
    assert counts["stored_records"] == counts["stored_bytes"] == 0


WRITER = """
import sys
from tests.helpers.traffic import traffic
from darl_opensearch.ood import OodLog
log = OodLog.open({path!r}, model="tiny", version="1", alpha=0.05, sample_rate=0.5)
for number, request in enumerate(traffic(100_000)):
    log.offer(request)
    if number % 10 == 9:
        log.flush()
        sys.stdout.write(request.request_id + "\\n")
        sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_kill_9(path):
    """A process is killed while it writes; whatever a flush reported is there, complete, and once."""
    from darl_opensearch.ood.record import expand_request
    from tests.helpers.traffic import POLICY

    for attempt in range(3):
        code = WRITER.format(path=str(path))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line.strip().removeprefix("r")) + 1
            if acknowledged >= 50 + 30 * attempt:
                os.kill(process.pid, signal.SIGKILL)
                break
        rest = process.stdout.read().split()
        acknowledged = int(rest[-1].removeprefix("r")) + 1 if rest else acknowledged
        process.stdout.close()
        assert process.wait(10) == -signal.SIGKILL
        expected = {
            record.record_id for request in list(_first(acknowledged)) for record in expand_request(request, POLICY)
        }
        with Spool.open(path) as spool:
            stored = [r.record_id for r in spool.take(limit=1_000_000, max_bytes=1 << 40)]
            counts = spool.counters()
        assert expected <= set(stored)
        assert len(stored) == len(set(stored)) == counts["spooled_records"] == counts["stored_records"]


def _first(count):
    import itertools

    return itertools.islice(traffic(100_000), count)
