"""The demo: what its table counts, what makes it fail, and the embedded way from the first line to the last."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile, copytree
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from darl_opensearch.cli.demo import cli, pages
from darl_opensearch.cli.demo import run as steps
from darl_opensearch.cli.demo.measure import RouteRun, find_alarms, find_failures, measure_ood_shares, measure_quality
from darl_opensearch.cli.demo.run import DemoOptions, DemoResult, run_demo
from darl_opensearch.cli.demo.sample import TestQuery as Query
from darl_opensearch.cli.demo.sample import read_sample
from darl_opensearch.cli.demo.second_act import SecondAct
from darl_opensearch.errors import DarlError
from darl_opensearch.node import NodePossible
from darl_opensearch.node.ports import is_free
from darl_opensearch.ood.record import PairRecord, expand_request
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.stats.shares import Share
from tests.helpers.bundles import ITEMS, QUERIES
from tests.helpers.commands import run_main
from tests.helpers.traffic import POLICY, request_of, rows_of

ROOT = Path(__file__).parents[2]
GAINS = (0.0, 1.0, 3.0)
SEEN = {"stolen bicycle": "bicycle", "lost luggage on a flight": "travel", "ski rescue": "travel"}


@pytest.fixture
def folder(tmp_path):
    """A sample of six products, of which the two of the kind "home" are new."""
    folder = tmp_path / "sample"
    folder.mkdir()
    queries = [
        {"query_id": f"q{n}", "query": text, "slice": SEEN.get(text, "home"), "seen": text in SEEN}
        for n, text in enumerate(QUERIES)
    ]
    judged = [
        {key: q[key] for key in ("query_id", "query")}
        | {"item_id": item["id"], "grade": 2 * (item["kind"] == q["slice"])}
        for q in queries for item in ITEMS
    ]  # fmt: skip
    rows = {"items": ITEMS[:4], "new_items": ITEMS[4:], "test_queries": queries, "test_judgments": judged}
    for name, values in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")
    return folder


@pytest.fixture
def sample(folder, tiny):
    return read_sample(folder, tiny)


SCORER = """
import sys, time
from pathlib import Path
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.backends import run_scorer
folder = Path(sys.argv[2])
bundle = Bundle.open(Path(sys.argv[1]))
with run_scorer(bundle, folder / "spool", folder / "states", "http://127.0.0.1:9", "key", folder / "log") as url:
    print(url, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_demo_leaves_no_scorer(tiny, tmp_path, number):
    demo = subprocess.Popen([sys.executable, "-c", SCORER, tiny.path, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        port = int(demo.stdout.readline().rpartition(":")[2].partition("/")[0])
        assert not is_free(port)
    finally:
        demo.send_signal(number)
        demo.communicate()
    limit = time.monotonic() + 30
    while not is_free(port):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_quality_by_hand(sample):
    run = RouteRun("x")
    bicycle, flight, storm = sample.queries[:3]
    run.add(bicycle, ["h-1", "b-1"], 5.0)  # one of two fits, at rank 2
    run.add(flight, [], 1.0)
    run.add(storm, ["h-1", "h-2", "not judged"], 3.0, reranked=False)
    ideal = 3 + 3 / math.log2(3)
    assert measure_quality(run, sample, [bicycle], GAINS) == {
        "ndcg@10": round(3 / math.log2(3) / ideal, 4), "judged@10": 1.0, "queries": 1,
    }  # fmt: skip
    assert measure_quality(run, sample, [flight], GAINS) == {"ndcg@10": 0.0, "judged@10": None, "queries": 1}
    assert measure_quality(run, sample, [storm], GAINS) == {"ndcg@10": 1.0, "judged@10": round(2 / 3, 4), "queries": 1}
    assert run.not_reranked == [storm.query_id]
    assert run.latency() == {"median_ms": 3.0, "p95_ms": 5.0}


GOOD = {"ndcg@10": 0.9, "judged@10": 0.99}
FIRST = {"ndcg@10": 0.7, "judged@10": 1.0}


@pytest.mark.parametrize(
    ("missed", "ours", "first", "logged", "wanted"),
    [
        (0, GOOD, FIRST, 30, []),
        (1, GOOD, FIRST, 30, ["in Python: 1 searches came back not reranked"]),
        (0, GOOD | {"judged@10": 0.94}, FIRST, 30, ["in Python: judged@10 is 0.94, below 0.95"]),
        (0, GOOD | {"judged@10": None}, FIRST, 30, ["in Python: judged@10 is None, below 0.95"]),
        (0, GOOD, FIRST | {"judged@10": 0.9}, 30, ["BM25: judged@10 is 0.9, below 0.95"]),
        (0, GOOD | {"ndcg@10": 0.7}, FIRST, 30, ["in Python: nDCG@10 is not above the first stage's"]),
        (0, GOOD, FIRST, 29, ["the OOD log holds 29 of 30 scored pairs"]),
    ],
)
def test_what_makes_it_fail(missed, ours, first, logged, wanted):
    run = RouteRun("in Python", not_reranked=["q"] * missed)
    assert find_failures([run], "BM25", {"BM25": first, "in Python": ours}, logged, 30) == wanted


def test_shares_by_kind_of_query_and_item(sample):
    ids = [item["id"] for item in ITEMS]  # the first four of kinds trained on, two new
    requests = [
        request_of(0, [0.99, 0.1, 0.1, 0.1, 0.99, 0.99], query_id="q0", doc_ids=ids),  # a seen query
        request_of(1, [0.1, 0.1, 0.1, 0.1, 0.1, 0.1], query_id="q1", doc_ids=ids),
        request_of(2, [0.1, 0.1, 0.99, 0.1, 0.99, 0.1], query_id="q2", doc_ids=ids),  # a new one
        request_of(3, [0.99] * 6, query_id="somebody else's", doc_ids=ids),
    ]
    everything = POLICY.__class__(model="tiny", version="1", alpha=0.05, sample_rate=1.0)
    pairs = [r for request in requests for r in expand_request(request, everything) if isinstance(r, PairRecord)]
    shares = measure_ood_shares(pairs, sample)
    assert {key: share.value for key, share in shares.items()} == {
        (True, True): 1 / 8, (True, False): 2 / 4, (False, True): 1 / 4, (False, False): 1 / 2,
    }  # fmt: skip
    assert shares[True, True].clusters == 2  # intervals are over queries


def write_traffic(path, count=60):
    """Half an hour in which everything is strange."""
    with Spool.open(path, create=True) as spool:
        start = datetime.now(UTC) - timedelta(minutes=30)
        spool.append(rows_of(
            request_of(n, [0.99] * 9, prefix="later", timestamp=start + timedelta(seconds=n)) for n in range(count)
        ))  # fmt: skip


def second_act(tiny, **changes):
    """A second act that has happened, for the demo's own bookkeeping; the real one is in tests/cycle."""

    def play(place, *_, earlier=()):
        write_traffic(place.folder / "later.sqlite")
        seen = {query.query_id: ["b-1"] for query in place.sample.queries}
        before = RouteRun("version 1", ranked=seen, is_ood={query: [True] for query in seen})
        after = RouteRun("version 2", ranked=dict.fromkeys(seen, []), is_ood={query: [] for query in seen})
        cycle = {name: {"seconds": 1.0} for name in ("select", "judge", "train", "gate", "release")}
        cycle["select"] |= {"selected": 10, "control": 4}
        cycle["judge"] |= {"selected": 10, "control": 4}
        cycle["train"] |= {"version": "2", "pairs": {"new": 8, "ood_dev": 2, "control": 4, "old": 0}}
        cycle["gate"] |= {"passed": True, "reasons": []}
        act = SecondAct(cycle, "released", "version 2 serves", before, after, (before, after, before), tiny, tiny)
        return dataclasses.replace(act, **changes)

    return play


def test_a_second_act_that_does_not_come_back_fails_the_demo(tiny, sample, tmp_path):
    act = second_act(tiny)(SimpleNamespace(sample=sample, folder=tmp_path))
    assert steps.find_second_act_failures(act) == []
    lost = dataclasses.replace(act, served=(*act.served[:2], RouteRun("version 1 again", ranked={"q0": ["t-1"]})))
    assert steps.find_second_act_failures(lost) == ["after the rollback version 1 does not answer as before"]
    first_stage = dataclasses.replace(act, after=RouteRun("version 2", not_reranked=["q0"]))
    assert steps.find_second_act_failures(first_stage) == ["version 2: 1 searches came back not reranked"]


def test_the_embedded_demo_says_so_and_counts_every_pair(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "node_possible", lambda: NodePossible(None, "no Java and no Docker"))
    monkeypatch.setattr(steps, "make_bundle", lambda *_: tiny)
    monkeypatch.setattr(steps, "play_second_act", second_act(tiny))
    said: list[str] = []
    result = run_demo(DemoOptions(folder, tmp_path / "out"), said.append, lambda *_: None)
    assert said[0].startswith("Embedded default: SQLite BM25 ") and "no Java and no Docker" in said[0]
    figures = result.figures
    assert figures["embedded"] and figures["not_reranked"] == {"in Python": 0}
    assert figures["pairs_logged"] > 0 and not any("OOD log" in text for text in result.failures)
    assert figures["quality"]["all kinds"].keys() == {"BM25", "in Python"}
    assert figures["quality"]["all kinds"]["in Python"]["judged@10"] == 1.0
    assert {"bicycle", "travel", "home (new)"} < figures["quality"].keys()
    assert "seen queries × seen kinds" in figures["ood_shares"]
    assert figures["latency"].keys() == {"BM25", "in Python"}
    assert len(result.tables) == 3 + 2 + 2  # quality, shares, latency; two example queries; the second act
    assert figures["second_act"]["outcome"] == "released" and figures["second_act"]["rolled_back"]
    assert figures["second_act"]["quality"]["new kinds"]["after"] == 0.0  # nothing came back in version 2
    assert (tmp_path / "out" / "ood" / "spool.sqlite").is_file()
    assert [what for what, _ in result.places] == [
        "the monitor's page of this traffic", "the same with filters", "a page to search with both versions",
        "what was verified of the bundle, line by line", "the model card of what was trained",
    ]  # fmt: skip
    json.dumps(figures, allow_nan=False)


@pytest.fixture
def traffic(tmp_path, monkeypatch):
    """The demo's folder after it ran without a node, seen from the folder in which it was called."""
    monkeypatch.chdir(tmp_path)
    for name in ("ood/spool", "later/later"):
        Path("out", name).parent.mkdir(parents=True)
    write_traffic(Path("out/later/later.sqlite"))
    with Spool.open("out/ood/spool.sqlite", create=True) as spool:
        now = datetime.now(UTC)
        spool.append(rows_of(request_of(n, [0.1] * 9, timestamp=now - timedelta(hours=2 * n)) for n in range(2)))
    return Path("out")


def test_the_monitors_page_has_all_traffic_of_this_demo(traffic, tiny):
    page = pages.write_monitor(traffic, tiny, None, datetime.now(UTC) - timedelta(hours=1))
    text = page.read_text(encoding="utf-8")
    assert page == traffic / "monitor.html" and "<strong>Drift.</strong> tiny 1" in text
    with SpoolStore(pages.traffic_of(traffic)) as store:
        assert len(list(store.requests())) == 61  # not the one that is older than the demo
    assert f"darl select {tiny.path} --spool out/ood/traffic.sqlite --since" in text


@pytest.mark.parametrize("node", [False, True])
def test_every_place_to_look_at_next_works_as_it_is_written(traffic, tiny, folder, monkeypatch, node):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    copytree(tiny.path, "out/bundle")
    bundle = Path("out/bundle")
    Path("out/run").mkdir()
    reports = [Path(f"out/{part}report.html").resolve() for part in ("run/", "")]  # of the training and of the cycle
    for report in reports:
        report.write_text("<!DOCTYPE html>")
    page = pages.write_monitor(traffic, tiny, None, datetime.now(UTC) - timedelta(hours=1))
    items = [folder / "items.jsonl", folder / "new_items.jsonl"]
    copyfile(ROOT / "README.md", "README.md")
    places = pages.list_places(traffic, bundle, bundle.resolve(), items, page, Path("out/states"), node=node)
    said = pages.describe_places(places)
    assert all(f"{what}:\n    {where}" in said for what, where in places)
    urls = [path.as_uri() for path in (*reports, page.resolve())]
    assert [where for _, where in places if where.startswith("file:")] == urls
    assert not any(str(Path.cwd()) in where for _, where in places if where not in urls)  # short, so that it is read
    served = []
    monkeypatch.setattr("darl_opensearch.web.serve.serve_page", lambda app, *_: served.append(app))
    for _, where in places:
        if where.startswith("file:"):
            assert Path(unquote(urlsplit(where).path)).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        elif "“" in where:
            name, _, title = where.rstrip("”").partition(", “")
            assert f"\n## {title}\n" in Path(name).read_text(encoding="utf-8")
        elif where.endswith("README.md"):
            assert Path(where).is_file()
        else:
            program, *arguments = shlex.split(where)
            without_node = arguments[0] in ("search", "node")
            ended = run_main(*arguments, *(["--help"] * without_node))  # its options are there
            assert program == "darl" and ended.code == 0, ended.err
    assert len(served) == 2 and ("darl node down" in said) == node


def test_the_program_is_named_as_this_shell_finds_it(monkeypatch, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    own = tmp_path / ".venv" / "bin" / "darl"
    own.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    monkeypatch.setenv("PATH", "/nowhere")
    assert pages.name_program() == ".venv/bin/darl"  # make demo
    monkeypatch.setenv("PATH", str(own.parent))
    assert pages.name_program() == "darl"
    own.unlink()
    assert pages.name_program() == f"{sys.executable} -m darl_opensearch"


def test_examples_are_a_seen_query_that_gained_and_a_new_one_that_is_ood(sample):
    first, ours = RouteRun("BM25"), RouteRun("in Python")
    for query in sample.queries:
        first.add(query, ["h-1", "t-1", "b-1"], 1.0)
        ours.add(query, ["t-1", "b-1", "h-1"] if query.query_id == "q1" else ["h-1", "t-1", "b-1"], 1.0)
    strange = [r for r in expand_request(request_of(0, [0.99], query_id="q4"), POLICY) if isinstance(r, PairRecord)]
    chosen = steps.choose_examples([first, ours], sample, strange, GAINS)
    assert [query.query_id for query in chosen] == ["q1", "q4"]
    assert all(isinstance(query, Query) for query in chosen)


@pytest.mark.parametrize("found", [(), ("in the cluster: 2 searches came back not reranked",)])
def test_the_command_fails_when_the_demo_does(monkeypatch, tmp_path, found):
    figures = {"embedded": True, "seconds": {"in all": 1.0}, "failures": list(found)}
    monkeypatch.setattr(steps, "run_demo", lambda *_: DemoResult((), figures, found))
    result = CliRunner().invoke(cli, ["--out", str(tmp_path)])
    if found:
        assert isinstance(result.exception, DarlError) and result.exception.exit_code == 1
        assert "2 searches came back not reranked" in str(result.exception)
    else:
        assert result.exit_code == 0
    assert "Where to look next:" in result.stdout


def test_ood_shares_that_break_their_promise_fail_the_demo():
    alpha = 0.05
    good = {(True, True): Share(0.047, 0.028, 0.078, 100, 9), (False, False): Share(0.58, 0.45, 0.69, 100, 9)}
    assert find_alarms(good, alpha) == []
    [above] = find_alarms(good | {(True, True): Share(0.09, 0.06, 0.12, 100, 9)}, alpha)
    assert "above alpha" in above
    [near] = find_alarms(good | {(False, False): Share(0.3, 0.15, 0.5, 100, 9)}, alpha)
    assert "not clearly above" in near
    assert find_alarms({}, alpha) == []
