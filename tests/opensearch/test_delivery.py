"""Nothing that the spool acknowledged is lost, and nothing arrives twice, whatever dies meanwhile.

A trigger in the spool writes down what was committed, in the same commit: that is what must be in the data
stream. ``DARL_TEST_OUTAGE_SECONDS`` (10) is how long the cluster stays away.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opensearchpy.helpers import scan

from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, ScorerAddress, load_items, register
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.node import NodeSpec, down, node_possible, running_node, status, up
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.stream import STREAM, ensure_stream
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE, tiny_bundle
from tests.helpers.cluster import RunningScorer, eventually

pytestmark = pytest.mark.opensearch

OUTAGE_SECONDS = float(os.environ.get("DARL_TEST_OUTAGE_SECONDS", "10"))
DOCUMENTS = [TEMPLATE.render(item) for item in ITEMS]
RECORDS = 1 + len(ITEMS)  # of a request, when every pair is drawn


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Scene:
    """A scorer with its spool, and what was asked of it."""

    def __init__(self, folder, ship_to):
        self.model = f"delivery-{uuid.uuid4().hex[:10]}"
        self.bundle = tiny_bundle(folder / "bundle", name=self.model)
        self.spool, self.ship_to = folder / "spool.db", ship_to
        self.port = free_port()
        self.http = httpx.Client(timeout=10)
        self.output = folder / "serve.log"
        self.process = None
        self.answered: list[int] = []
        self.slowest = 0.0
        Spool.open(self.spool, create=True).close()
        with contextlib.closing(sqlite3.connect(self.spool)) as db:
            db.executescript(
                "CREATE TABLE audit (record_id TEXT);"
                "CREATE TRIGGER audit_in AFTER INSERT ON record"
                " BEGIN INSERT INTO audit VALUES (NEW.record_id); END;"
            )

    def start(self):
        command = [
            sys.executable, "-m", "darl_opensearch", "serve", str(self.bundle.path), "--port", str(self.port),
            "--ood-log", str(self.spool), "--ood-sample-rate", "1.0", "--ship-to", self.ship_to,
        ]  # fmt: skip
        with self.output.open("a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if self.http.get(f"http://127.0.0.1:{self.port}/ready", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"the scorer is not ready: {self.output.read_text()}")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        assert self.process.wait(10) == -signal.SIGKILL

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(60) == 0, self.output.read_text()

    def ask(self, number, *, patience=60.0):
        """Send a request as a client with retries does: under the same id until it is answered."""
        body = {"query": QUERIES[number % len(QUERIES)], "documents": DOCUMENTS, "slice": "load"}
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            started = time.perf_counter()
            try:
                answer = self.http.post(
                    f"http://127.0.0.1:{self.port}/v1/rerank",
                    json=body,
                    headers={"X-Request-Id": f"{self.model}-{number}"},
                )
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                self.slowest = max(self.slowest, time.perf_counter() - started)
                self.answered.append(number)
                return
            assert answer.status_code == 503, answer.text
            time.sleep(0.1)
        pytest.fail(f"request {number} was never answered")

    def load(self, seconds):
        """Ask steadily, about 30 times a second, until the event is set."""
        for number in itertools.count(len(self.answered)):
            if seconds.is_set():
                return
            self.ask(number)
            time.sleep(0.03)

    def counters(self):
        with Spool.open(self.spool) as spool:
            return spool.counters()

    def wait_until_shipped(self, patience=120.0):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            info = self.http.get(f"http://127.0.0.1:{self.port}/info").json()["ood_log"]
            if not info["queued"] and not self.counters()["stored_records"]:
                return
            time.sleep(0.1)
        pytest.fail(f"{self.counters()} {self.output.read_text()}")

    def acknowledged(self):
        with contextlib.closing(sqlite3.connect(self.spool)) as db:
            return [row[0] for row in db.execute("SELECT record_id FROM audit")]

    def in_the_stream(self, client):
        """Id and request of every document of this run, twins included."""
        client.indices.refresh(index=STREAM)
        body = {"query": {"term": {"model": self.model}}, "_source": ["record_id", "request_id"]}
        hits = scan(client, index=STREAM, query=body, size=5000)
        return [(h["_source"]["record_id"], h["_source"]["request_id"]) for h in hits]


@contextlib.contextmanager
def scene(folder, url, ship_to=None):
    client = connect(ClusterOptions(url=url))
    was_there = not ensure_stream(client)
    made = Scene(folder, ship_to or url)
    try:
        made.start()
        yield made, client
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        made.http.close()
        client.delete_by_query(
            index=STREAM, body={"query": {"term": {"model": made.model}}}, params={"conflicts": "proceed"}
        )
        client.indices.refresh(index=STREAM)
        if not was_there and client.count(index=STREAM)["count"] == 0:
            client.indices.delete_data_stream(name=STREAM)
            client.indices.delete_index_template(name=STREAM)


def check(made, client):
    """Every acknowledged record is in the stream, once, and no other."""
    acknowledged, found = made.acknowledged(), made.in_the_stream(client)
    identities = [identity for identity, _ in found]
    assert len(identities) == len(set(identities))
    assert set(identities) == set(acknowledged)
    counts = made.counters()
    assert counts["shipped"] + counts["already_there"] == counts["spooled_records"] == len(acknowledged)
    assert counts["stored_dead_letters"] == counts["dropped_queue"] == counts["evicted"] == 0
    return {int(request.rpartition("-")[2]) for _, request in found}


def test_a_scorer_killed_during_1000_requests(opensearch_url, tmp_path):
    with scene(tmp_path, opensearch_url) as (made, client):
        with ThreadPoolExecutor(4) as clients:
            running = [clients.submit(made.ask, number) for number in range(1000)]
            while len(made.answered) < 400:
                time.sleep(0.01)
            made.kill()
            at_death = len(made.acknowledged())
            first_life = set(made.answered)
            made.start()
            for future in running:
                future.result()
        assert sorted(made.answered) == list(range(1000))
        made.wait_until_shipped()
        made.stop()
        logged = check(made, client)
        assert 0 < at_death < 1000 * RECORDS
        # What had been answered but not yet committed died with the process; nothing else is missing.
        lost = set(range(1000)) - logged
        assert lost <= first_life
        assert len(lost) < 300
        sys.stdout.write(f"acknowledged {at_death} at the kill, {len(logged)} requests logged, lost {len(lost)}\n")


class Proxy:
    """A TCP proxy that can be cut, or that swallows the answers."""

    def __init__(self, port):
        self.target = port
        self.port = free_port()
        self.swallow = False
        self._listener = None
        self._open: set[socket.socket] = set()
        self.mend()

    def mend(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pump, args=(client,), daemon=True).start()

    def _pump(self, client):
        with client, socket.create_connection(("127.0.0.1", self.target)) as node:
            pair = {client, node}
            self._open |= pair
            try:
                while True:
                    for side in select.select(list(pair), [], [])[0]:
                        data = side.recv(1 << 16)
                        if not data or (side is node and self.swallow):
                            return
                        (node if side is client else client).sendall(data)
            except OSError:
                return
            finally:
                self._open -= pair


def test_a_cluster_that_cannot_be_reached_for_a_while(opensearch_url, tmp_path):
    """Answers are lost first, then connections are refused; searching does not notice."""
    proxy = Proxy(int(opensearch_url.rpartition(":")[2]))
    with scene(tmp_path, opensearch_url, f"http://127.0.0.1:{proxy.port}") as (made, client):
        with under_load(made):
            time.sleep(2)
            proxy.swallow = True
            time.sleep(2)
            proxy.cut()
            proxy.swallow = False
            time.sleep(OUTAGE_SECONDS)
            waiting = made.counters()["stored_records"]
            proxy.mend()
            time.sleep(2)
        made.wait_until_shipped()
        made.stop()
        proxy.cut()
        assert check(made, client) == set(made.answered)
        assert waiting > 10 * RECORDS
        assert made.counters()["already_there"] > 0  # batches whose answer was lost, sent again
        assert made.slowest < 5


@contextlib.contextmanager
def under_load(made):
    enough = threading.Event()
    with ThreadPoolExecutor(1) as clients:
        load = clients.submit(made.load, enough)
        try:
            yield
        finally:
            enough.set()
        load.result()


@pytest.fixture(scope="module")
def own_node():
    possible = node_possible()
    if not possible:
        if os.environ.get("DARL_REQUIRE_OPENSEARCH") == "1":
            pytest.fail(f"no node to stop: {possible.reason}")
        pytest.skip(f"no node to stop: {possible.reason}")
    with running_node(heap="512m", timeout_s=400) as node:
        yield node


def register_in_both_modes(bundle, scorer, url, folder):
    """Register a bundle and load items; gives a search through each pipeline."""
    cluster = Cluster.open(ClusterOptions(url=url))
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    load_items(cluster, bundle, items, "restart-items").check()
    searches = []
    for mode in ("local", "connector"):
        pipeline = PipelineOptions(name=f"restart-{mode}")
        register(bundle, cluster, RegisterOptions(mode=mode, scorer=ScorerAddress(scorer.url), pipeline=pipeline))
        searches.append(PipelineSearch(cluster.client, bundle, "restart-items", pipeline.name))
        assert searches[-1].search("stolen bicycle").reranked
    return searches


@pytest.mark.local_mode
@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_node_that_goes_away_under_load(own_node, tmp_path, how):
    if how == "paused" and own_node.pid is None:
        pytest.skip("a node in a container has no process of ours to pause")
    registered = []
    with scene(tmp_path, own_node.url) as (made, client), RunningScorer(made.bundle) as scorer:
        with under_load(made):
            time.sleep(2)
            if how == "paused":
                pid = status(own_node.port).pid  # another one since it was stopped and started
                os.killpg(pid, signal.SIGSTOP)
                time.sleep(OUTAGE_SECONDS)
                waiting = made.counters()["stored_records"]
                os.killpg(pid, signal.SIGCONT)
            else:
                registered = register_in_both_modes(made.bundle, scorer, own_node.url, tmp_path)
                down(own_node.port)
                time.sleep(OUTAGE_SECONDS)
                waiting = made.counters()["stored_records"]
                up(NodeSpec(port=own_node.port, heap="512m"))
            time.sleep(2)
        made.wait_until_shipped()
        made.stop()
        assert check(made, client) == set(made.answered)
        assert waiting > 10 * RECORDS
        assert made.slowest < 5
        for search in registered:  # the node loads the model again by itself
            assert eventually(lambda search=search: search.search("stolen bicycle").reranked, 120)
