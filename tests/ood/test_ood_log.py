"""The log: never in the way of a search, and honest about what it could not write."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from darl_opensearch.errors import InputError
from darl_opensearch.ood import OodLog
from darl_opensearch.ood import log as log_module
from darl_opensearch.ood.record import expand_request
from darl_opensearch.ood.spool import Spool, SpoolError
from tests.helpers.traffic import POLICY, request_of, traffic


def open_log(path, **values):
    return OodLog.open(path, **({"model": "tiny", "version": "1", "alpha": 0.05, "sample_rate": 0.5} | values))


def stored_ids(path):
    with Spool.open(path) as spool:
        return [r.record_id for r in spool.take(limit=1_000_000, max_bytes=1 << 40)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "spool.db"


def test_what_is_offered_is_in_the_spool_after_a_flush(path):
    requests = list(traffic(30))
    with open_log(path) as log:
        assert all(log.offer(request) for request in requests)
        assert log.flush()
        expected = [r.record_id for request in requests for r in expand_request(request, POLICY)]
        assert stored_ids(path) == expected
        counts = log.counters()
        assert counts["offered"] == counts["accepted"] == counts["spooled_requests"] == 30
        assert (counts["spooled_records"], counts["queued"], counts["dropped_queue"]) == (len(expected), 0, 0)


def test_a_caller_with_one_id_for_everything_loses_nothing_and_a_retry_is_not_doubled(path):
    requests = [
        dataclasses.replace(r, request_id="constant", query=f"{r.query}, {n}") for n, r in enumerate(traffic(30))
    ]
    with open_log(path) as log:
        assert all(log.offer(request) for request in [*requests, requests[7]])
        assert log.flush()
        expected = [r.record_id for request in requests for r in expand_request(request, POLICY)]
        assert stored_ids(path) == expected
        assert log.counters()["repeated"] == len(list(expand_request(requests[7], POLICY)))


def test_closing_writes_what_waits(path):
    log = open_log(path)
    for request in traffic(5):
        log.offer(request)
    log.close()
    log.close()
    assert len([i for i in stored_ids(path) if i]) >= 5
    assert log.offer(request_of(9, [])) is False
    assert log.counters()["dropped_queue"] == 1


def test_an_ended_program_that_did_not_close_writes_what_waits(path):
    code = f"""
        import sys
        from tests.helpers.traffic import traffic
        from darl_opensearch.ood import OodLog
        log = OodLog.open({str(path)!r}, model="tiny", version="1", alpha=0.05)
        for request in traffic(5):
            log.offer(request)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    with Spool.open(path) as spool:
        assert spool.counters()["spooled_requests"] == 5


class SlowSpool:
    """Holds every commit until told to go on."""

    def __init__(self, spool, monkeypatch):
        self.go = threading.Event()
        append = spool.append

        def slow(*args, **kwargs):
            self.go.wait()
            return append(*args, **kwargs)

        monkeypatch.setattr(spool, "append", slow)


def test_offer_never_waits_and_drops_are_counted(path, monkeypatch):
    spool = Spool.open(path, create=True)
    slow = SlowSpool(spool, monkeypatch)
    log = OodLog(spool, POLICY, max_queued_requests=20)
    started = time.perf_counter()
    taken = sum(log.offer(request) for request in traffic(2000))
    assert time.perf_counter() - started < 2
    assert 20 <= taken <= 20 + log_module.COMMIT_REQUESTS
    assert log.counters()["dropped_queue"] == 2000 - taken
    assert log.flush(timeout=0.05) is False
    slow.go.set()
    assert log.flush()
    log.close()
    with Spool.open(path) as reopened:
        counts = reopened.counters()
    # The spool knows of the drops, so that they are seen after this process has ended.
    assert (counts["spooled_requests"], counts["dropped_queue"]) == (taken, 2000 - taken)


def test_long_texts_are_bounded_by_size_not_by_number(path, monkeypatch):
    spool = Spool.open(path, create=True)
    slow = SlowSpool(spool, monkeypatch)
    log = OodLog(spool, POLICY, max_queued_chars=100_000)
    taken = sum(log.offer(request_of(i, [0.1], documents=["x" * 30_000])) for i in range(10))
    assert taken == 3
    slow.go.set()
    assert log.flush()
    assert log.offer(request_of(11, [0.1], documents=["x" * 30_000]))
    log.close()


def test_a_full_disk_costs_one_warning_and_nothing_once_there_is_space(path, monkeypatch, caplog):
    """SQLite's own page limit stands in for the disk: the errors are the real ones."""
    monkeypatch.setattr(log_module, "RETRY_SECONDS", (0.02, 0.05))
    spool = Spool.open(path, create=True)
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    log = OodLog(spool, POLICY, max_queued_requests=50)
    with caplog.at_level(logging.WARNING):
        taken = [request for request in traffic(300) if log.offer(request)]
        deadline = time.monotonic() + 20
        while log.counters()["write_failures"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.counters()["write_failures"] >= 3
        assert log.flush(timeout=0.01) is False
        before = [r for r in caplog.records if "cannot write" in r.message]
        assert len(before) == 1
        assert "full" in before[0].getMessage() and "Free disk space" in before[0].getMessage()
        spool._connection.execute("PRAGMA max_page_count = 1000000")
        assert log.flush()
    assert [r.getMessage() for r in caplog.records if "can be written again" in r.getMessage()]
    log.close()
    expected = {r.record_id for request in taken for r in expand_request(request, POLICY)}
    assert set(stored_ids(path)) == expected
    with Spool.open(path) as reopened:
        assert reopened.counters()["dropped_queue"] == 300 - len(taken)


def test_a_disk_that_stays_full_does_not_hold_up_the_end(path, monkeypatch, caplog):
    monkeypatch.setattr(log_module, "RETRY_SECONDS", (30.0, 30.0))
    spool = Spool.open(path, create=True)

    def refuse(*_, **__):
        raise SpoolError("database or disk is full")

    monkeypatch.setattr(spool, "append", refuse)
    log = OodLog(spool, POLICY)
    for request in traffic(7):
        assert log.offer(request)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        log.close()
    assert time.monotonic() - started < 5
    assert log.counters()["dropped_error"] == 7
    assert "7 requests could not be written" in caplog.text


def test_a_real_write_error_of_the_system_is_survived(path):
    """The process may not write files beyond 200 kB: the system refuses, as on a full disk."""
    code = f"""
        import json, resource, sys, time
        from tests.helpers.traffic import traffic
        from darl_opensearch.ood import OodLog, log as log_module
        log_module.RETRY_SECONDS = (0.02, 0.05)
        log = OodLog.open({str(path)!r}, model="tiny", version="1", alpha=0.05, sample_rate=1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        slowest = 0.0
        for i, request in enumerate(traffic(400)):
            started = time.perf_counter()
            log.offer(request)
            slowest = max(slowest, time.perf_counter() - started)
            if i % 50 == 49:
                log.flush(timeout=0.2)
        failed = log.counters()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        recovered = log.flush()
        log.close()
        end = {{"failed": failed, "end": log.counters(), "recovered": recovered}}
        print(json.dumps(end | {{"slowest": slowest}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["failed"]["write_failures"] > 0
    assert seen["recovered"] and seen["end"]["spooled_requests"] == 400
    assert done.stderr.count("cannot write") == 1
    assert len(set(stored_ids(path))) == seen["end"]["spooled_records"]
    assert seen["slowest"] < 0.5


def test_an_odd_request_costs_only_itself(path, caplog):
    with open_log(path) as log:
        odd = request_of(1, [0.99])
        object.__setattr__(odd, "documents", [3])  # no caller should, and no other may suffer for it
        log._queue.append((odd, 0))
        with log._changed:
            log._counts["accepted"] += 1
        log.offer(request_of(2, [0.99]))
        assert log.flush() is False
        assert log.counters()["dropped_error"] == 1
        assert log.counters()["spooled_requests"] == 1
    assert "cannot be logged" in caplog.text


def test_a_spool_that_was_deleted_is_made_anew(path, caplog):
    with open_log(path) as log:
        log.offer(request_of(1, [0.1]))
        assert log.flush()
        for file in path.parent.iterdir():
            file.unlink()
        log.offer(request_of(2, [0.1]))
        assert log.flush()
        assert len(stored_ids(path)) >= 1
    assert "deleted or replaced while in use" in caplog.text


def test_a_folder_that_gave_way_to_a_file_is_waited_out(path, monkeypatch, caplog):
    monkeypatch.setattr(log_module, "RETRY_SECONDS", (0.05, 0.1))
    with open_log(path) as log:
        log.offer(request_of(1, [0.99]))
        assert log.flush()
        path.parent.rename(path.parent.with_name("elsewhere"))
        path.parent.write_text("in the way")
        log.offer(request_of(2, [0.99]))
        assert not log.flush(1)
        path.parent.unlink()
        log.offer(request_of(3, [0.99]))
        assert log.flush()
        assert log.counters()["spooled_requests"] == 3
        assert len(stored_ids(path)) == 4
    assert caplog.text.count("cannot write") == 1


def test_a_file_called_memory_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_log(":memory:") as log:
        log.offer(request_of(1, [0.99]))
        assert log.flush()
    assert len(stored_ids(":memory:")) == 2


def test_nonsense_is_refused_when_opening(path):
    with pytest.raises(InputError, match=r"sample rate 1\.5 is outside"):
        open_log(path, sample_rate=1.5)
    with pytest.raises(InputError, match="unknown text policy 'half'"):
        open_log(path, text="half")
    with pytest.raises(InputError, match="is too small"):
        open_log(path, max_bytes=10)
    assert not path.exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)  # the limits of this process are as they were
