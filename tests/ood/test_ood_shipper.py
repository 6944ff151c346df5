"""The shipper against a cluster that answers as told; what a real one does is in tests/opensearch."""

from __future__ import annotations

import importlib
import json
import logging
import threading
import time

import pytest
from click.testing import CliRunner
from opensearchpy import Connection
from opensearchpy.exceptions import ConnectionError as NoConnection

from darl_opensearch.cli.ship import cli as ship
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.errors import ClusterError, InputError, UsageError
from darl_opensearch.ood import Shipper, StreamStore
from darl_opensearch.ood.spool import Spool, SpoolError
from tests.helpers.traffic import rows_of, traffic


class Cluster:
    """Keeps what it is sent, and fails when and how it is told."""

    def __init__(self):
        self.docs: dict[str, dict] = {}
        self.failures: list = []  # consumed one by one by bulk requests: a status, "closed", "lost answer"
        self.poison: dict[str, int] = {}  # status by record id
        self.max_records = 1 << 30
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        outer = self

        class Wire(Connection):
            def perform_request(self, method, url, params=None, body=None, *_, **__):
                with outer.lock:
                    return outer.answer(self, method, url, body)

        self.client = connect(ClusterOptions(url="http://cluster:9200"), connection_class=Wire)

    def answer(self, wire, method, url, body):
        self.requests.append((method, url))
        if "_data_stream" in url:
            found = {"data_streams": [{"name": "darl-ood"}]}
            return 200, {}, json.dumps(found)
        if not url.endswith("_bulk"):
            return 200, {}, "{}"
        failure = self.failures.pop(0) if self.failures else None
        if failure == "closed":
            raise NoConnection("N/A", "connection refused", OSError())
        lines = (body.decode() if isinstance(body, bytes) else body).splitlines()
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        if len(pairs) > self.max_records:
            failure = 413
        if isinstance(failure, int):
            error = {"error": {"type": "some_exception", "reason": f"told to answer {failure}"}}
            wire._raise_error(failure, json.dumps(error), "application/json")
        items = [self.create(json.loads(a)["create"], json.loads(b)) for a, b in pairs]
        if failure == "lost answer":
            raise NoConnection("TIMEOUT", "read timed out", OSError())
        return 200, {"content-type": "application/json"}, json.dumps({"items": items})

    def create(self, action, source):
        identity = action["_id"]
        status = self.poison.get(identity) or (409 if identity in self.docs else 201)
        if status == 201:
            self.docs[identity] = source
        error = {} if status == 201 else {"error": {"type": "x_exception", "reason": f"why {status}"}}
        return {"create": {"status": status} | error}


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.db"


@pytest.fixture
def rows(path):
    rows = rows_of(traffic(40))
    with Spool.open(path, create=True) as spool:
        spool.append(rows)
    return rows


def counters(path):
    with Spool.open(path) as spool:
        return spool.counters()


def test_everything_arrives_and_leaves_the_spool(cluster, path, rows):
    with Shipper(path, cluster.client, batch_records=50) as shipper:
        total = shipper.ship_all()
        assert (total.sent, total.created, total.deferred) == (len(rows), len(rows), 0)
        assert shipper.ship_once().sent == 0
    assert {i: json.dumps(d) for i, d in cluster.docs.items()} == {
        r.record_id: json.dumps(json.loads(r.body)) for r in rows
    }
    assert counters(path)["shipped"] == len(rows)
    assert counters(path)["stored_records"] == 0


def test_a_batch_whose_answer_was_lost_changes_nothing_when_sent_again(cluster, path, rows):
    cluster.failures = ["lost answer"]
    with Shipper(path, cluster.client) as shipper:
        with pytest.raises(ClusterError):
            shipper.ship_once()
        assert counters(path)["stored_records"] == len(rows)
        result = shipper.ship_once()
    assert (result.created, result.already_there) == (0, len(rows))
    assert len(cluster.docs) == len(rows)
    assert counters(path)["stored_records"] == 0


@pytest.mark.parametrize("status", [400, 413])
def test_poison_is_put_aside_with_its_reason_and_holds_nothing_up(cluster, path, rows, status, caplog):
    cluster.poison = {rows[3].record_id: status}
    with caplog.at_level(logging.WARNING), Shipper(path, cluster.client) as shipper:
        total = shipper.ship_all()
        assert (total.dead, total.created) == (1, len(rows) - 1)
        assert shipper.ship_once().sent == 0
    with Spool.open(path) as spool:
        (letter,) = spool.dead_letters()
        assert (letter.record_id, letter.reason) == (rows[3].record_id, f"{status}: why {status}")
        assert letter.body == rows[3].body
        assert spool.counters()["stored_dead_letters"] == 1
    assert "1 records were rejected permanently" in caplog.text


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_what_passes_is_kept(cluster, path, rows, status):
    cluster.poison = {rows[3].record_id: status}
    with Shipper(path, cluster.client) as shipper:
        total = shipper.ship_all()
        assert (total.deferred, total.dead, total.reason) == (1, 0, f"{status}: why {status}")
        assert counters(path)["stored_records"] == 1
        cluster.poison = {}
        assert shipper.ship_all().created == 1


def test_a_batch_too_large_for_the_cluster_is_halved(cluster, path, rows):
    cluster.max_records = 7
    with Shipper(path, cluster.client) as shipper:
        assert shipper.ship_all().created == len(rows)


def test_one_record_too_large_for_the_cluster_is_poison(cluster, path, rows):
    cluster.max_records = 0
    with Shipper(path, cluster.client, batch_records=4) as shipper:
        assert shipper.ship_once().dead == 4
    with Spool.open(path) as spool:
        assert spool.dead_letters()[0].reason.startswith("413: told to answer 413")


@pytest.mark.parametrize("failure", ["closed", "lost answer", 429, 500, 503, 401])
def test_run_waits_failures_out_with_one_warning(cluster, path, rows, failure, caplog):
    cluster.failures = [failure] * 4
    shipper = Shipper(path, cluster.client, backoff_seconds=(0.01, 0.04), poll_seconds=0.01)
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop,))
    with caplog.at_level(logging.WARNING):
        thread.start()
        deadline = time.monotonic() + 20
        while counters(path)["stored_records"] and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        thread.join(10)
    shipper.close()
    assert not thread.is_alive()
    assert len(cluster.docs) == len(rows)
    lines = [r.getMessage() for r in caplog.records if "OOD shipper" in r.getMessage()]
    assert len(lines) == 2
    assert "Records stay in the spool" in lines[0] and "accepts records again" in lines[1]


@pytest.mark.parametrize("nonsense", ["welcome", "[]", "{}", '{"data_streams": 3}', '{"items": [null]}'])
def test_run_waits_for_sense_when_something_else_answers(cluster, path, rows, nonsense, monkeypatch, caplog):
    sensible, left = cluster.answer, [3]

    def answer(*request):
        left[0] -= 1
        return (200, {"content-type": "text/plain"}, nonsense) if left[0] >= 0 else sensible(*request)

    monkeypatch.setattr(cluster, "answer", answer)
    stop = threading.Event()
    with Shipper(path, cluster.client, poll_seconds=0.01, backoff_seconds=(0.01, 0.05)) as shipper:
        thread = threading.Thread(target=shipper.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 10
        while len(cluster.docs) < len(rows) and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        thread.join(10)
    assert len(cluster.docs) == len(rows)
    assert caplog.text.count("trying again") == 1


def test_run_goes_on_after_the_spool_failed(cluster, path, rows, monkeypatch, caplog):
    """A full disk refuses the deletes as well."""
    shipper = Shipper(path, cluster.client, backoff_seconds=(0.01, 0.04), poll_seconds=0.01)
    settle, attempts = shipper._spool.settle, []

    def refuse_twice(**values):
        attempts.append(1)
        if len(attempts) < 3:
            raise SpoolError("the spool failed (database or disk is full)")
        settle(**values)

    monkeypatch.setattr(shipper._spool, "settle", refuse_twice)
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop,))
    with caplog.at_level(logging.WARNING):
        thread.start()
        deadline = time.monotonic() + 20
        while counters(path)["stored_records"] and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        thread.join(10)
    shipper.close()
    assert len(cluster.docs) == counters(path)["already_there"] == len(rows)
    assert "disk is full" in caplog.text


def test_a_spool_that_was_replaced_is_opened_anew(cluster, path, rows):
    with Shipper(path, cluster.client) as shipper:
        assert shipper.ship_all().created == len(rows)
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(InputError, match="the spool does not exist"):
            shipper.ship_once()
        with Spool.open(path, create=True) as spool:
            spool.append(rows_of(traffic(3, prefix="new")))
        assert shipper.ship_all().created > 3


def test_run_backs_off_and_stops_at_once(cluster, path, rows):
    cluster.failures = ["closed"] * 1000
    shipper = Shipper(path, cluster.client, backoff_seconds=(0.1, 60.0))
    stop = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop,))
    thread.start()
    time.sleep(1.0)
    stop.set()
    thread.join(2)
    assert not thread.is_alive()
    shipper.close()
    # .05–.1, .1–.2, .2–.4, .4–.8 …: five attempts fit at most in the first second.
    assert 2 <= sum(url.endswith("_bulk") for _, url in cluster.requests) <= 5
    assert counters(path)["stored_records"] == len(rows)


def test_darl_ship_reports_and_exits_1_when_the_cluster_takes_no_more(cluster, path, rows, monkeypatch):
    module = importlib.import_module("darl_opensearch.connect")  # the package exports a function so named
    monkeypatch.setattr(module, "connect", lambda options: cluster.client)
    run = CliRunner().invoke
    cluster.poison = {rows[0].record_id: 400, rows[1].record_id: 429}
    result = run(ship, ["--spool", str(path), "--json"])
    assert isinstance(result.exception, ClusterError)
    seen = json.loads(result.stdout)
    assert (seen["created"], seen["dead"], seen["left"]) == (len(rows) - 2, 1, 1)
    result = run(ship, ["--spool", str(path), "--dead-letters", "--json"])
    letters = json.loads(result.stdout)
    assert letters["count"] == 1
    assert letters["dead_letters"][0]["record"] == json.loads(rows[0].body)
    cluster.poison = {}
    result = run(ship, ["--spool", str(path), "--retry-dead-letters"])
    assert result.exit_code == 0
    assert "2 records written; 0 left in the spool" in result.stdout
    assert "1 dead letters queued again" in result.stderr
    assert len(cluster.docs) == len(rows)


@pytest.mark.parametrize("stream", ["", "*", "a*", "a,b", "../x", "_all", "Upper", "\udcff"])
def test_a_stream_name_that_is_none_is_wrong_usage(cluster, path, rows, stream):
    with (
        Shipper(path, cluster.client, stream=stream) as shipper,
        pytest.raises(UsageError, match="invalid data stream name"),
    ):
        shipper.ship_all()
    assert cluster.requests == []


@pytest.mark.parametrize("nonsense", ["welcome", "[]", "{}", '{"data_streams": 3}'])
def test_something_else_that_answers_is_said_in_one_line(cluster, path, rows, nonsense, monkeypatch):
    monkeypatch.setattr(cluster, "answer", lambda *_: (200, {"content-type": "text/plain"}, nonsense))
    with Shipper(path, cluster.client) as shipper, pytest.raises(ClusterError, match="is not OpenSearch"):
        shipper.ship_all()
    with pytest.raises(ClusterError, match="is not OpenSearch"):
        list(StreamStore(cluster.client).requests())


def test_an_empty_stream_name_cannot_be_read(cluster):
    with pytest.raises(UsageError, match="name of the data stream is empty"):
        StreamStore(cluster.client, stream="")


def test_dead_letters_say_nothing_to_the_terminal(path, rows):
    with Spool.open(path) as spool:
        spool.settle(dead={row.seq: "400: \x1b]0;owned\x07" for row in spool.take(limit=1)})
    said = CliRunner().invoke(ship, ["--spool", str(path), "--dead-letters"]).stdout
    assert "owned" in said and "\x1b" not in said
