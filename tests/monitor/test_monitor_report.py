"""The report over a spool, and the command."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import pytest
from click.testing import CliRunner

from darl_opensearch.cli.monitor import cli as monitor
from darl_opensearch.monitor import report
from darl_opensearch.monitor.render import render_report
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.store import SpoolStore
from tests.helpers.traffic import POLICY, START, request_of, rows_of, traffic

STRANGE, NORMAL = 0.99, 0.5


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.db"


def write(path, requests, policy=POLICY):
    with Spool.open(path, create=True) as spool:
        spool.append(rows_of(requests, policy))


def read(path, *args, **values):
    with SpoolStore(path, page_records=7) as store:
        return report(store, *args, **values)


def test_shares_come_from_the_requests_own_counts(path):
    write(path, [request_of(i, [STRANGE] * (i % 3) + [NORMAL] * 9) for i in range(9)])
    (model,) = read(path).models
    assert (model.requests, model.queries, model.pairs) == (9, 9, 9 * 9 + 9)
    assert model.share_ood.value == 9 / 90
    assert model.first == START and model.last == START + timedelta(seconds=8)


def test_pairs_estimate_the_same_share_by_weight(path):
    write(path, traffic(600))
    (model,) = read(path).models
    weighted = model.share_ood_weighted
    assert weighted.low <= model.share_ood.value <= weighted.high
    assert 0.9 <= weighted.total / model.pairs <= 1.1
    assert model.pair_records < model.pairs


def test_everything_logged_makes_both_shares_equal(path):
    write(path, traffic(60), dataclasses.replace(POLICY, sample_rate=1.0))
    (model,) = read(path).models
    assert model.share_ood_weighted == model.share_ood


def test_versions_are_never_put_together(path):
    write(path, traffic(30, prefix="a"))
    later = [dataclasses.replace(r, timestamp=r.timestamp + timedelta(days=1)) for r in traffic(20, prefix="b")]
    write(path, later, dataclasses.replace(POLICY, version="2"))
    result = read(path)
    assert [(m.version, m.requests) for m in result.models] == [("2", 20), ("1", 30)]


def test_slices_and_strange_queries_are_ranked(path):
    requests = [
        request_of(0, [STRANGE, NORMAL], query="half", slice="pet"),
        request_of(1, [STRANGE, STRANGE], query="all", slice="cyber"),
        request_of(2, [1.0, 1.0], query="ALL  farther", slice="cyber"),
        request_of(3, [NORMAL] * 4, query="plain"),
        request_of(4, [NORMAL] * 2, query="Half", slice="pet"),
    ]
    write(path, requests)
    (model,) = read(path).models
    assert [(s.name, s.requests, s.share_ood.value) for s in model.slices] == [
        ("cyber", 2, 1.0),
        ("pet", 2, 0.25),
        ("", 1, 0.0),
    ]
    assert [(q.query, q.requests, q.share_ood) for q in model.strangest] == [
        ("ALL  farther", 1, 1.0),
        ("all", 1, 1.0),
        ("Half", 2, 0.25),
    ]
    assert read(path, top=1).models[0].strangest[0].query == "ALL  farther"


def test_verdicts(path):
    write(path, [request_of(i, [STRANGE] * 5 + [NORMAL] * 5) for i in range(50)])
    assert read(path).models[0].verdict == "above"
    assert read(path, since=START + timedelta(seconds=49)).models[0].verdict == "unknown"


def test_since_and_until(path):
    write(path, [request_of(i, [NORMAL]) for i in range(10)])
    span = read(path, START + timedelta(seconds=3), until=START + timedelta(seconds=7))
    assert span.models[0].requests == 4
    assert read(path, START + timedelta(days=1)).empty


def test_requests_without_candidates_are_counted(path):
    write(path, [request_of(0, []), request_of(1, [])])
    (model,) = read(path).models
    assert (model.requests, model.pairs, model.share_ood.value, model.strangest) == (2, 0, None, ())
    assert "share OOD –" in render_report(read(path))


def test_searches_that_were_not_reranked_are_counted_apart(path, tmp_path):
    scored = [request_of(i, [STRANGE, NORMAL], query=f"q{i % 3}", slice="pet") for i in range(9)]
    write(path, scored)
    alone = read(path).models[0]
    failed = [request_of(50 + i, [], reranked=False, query="failed", latency_ms=1e6) for i in range(3)]
    write(path, failed)
    (model,) = read(path).models
    assert model == dataclasses.replace(alone, not_reranked=3, last=failed[-1].timestamp)  # and nothing else
    assert "3 searches NOT reranked (25.0 % of those logged)" in render_report(read(path))
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(monitor, ["--spool", str(path), "--json", "--html", str(page)])
    assert json.loads(shown.stdout)["models"][0]["not_reranked"] == 3
    assert "3 searches not reranked" in page.read_text(encoding="utf-8")
    with SpoolStore(path) as store:
        assert [r.query for r in store.requests() if not r.reranked] == []
        assert [r.query for r in store.requests(not_reranked=True) if not r.reranked] == ["failed"] * 3


def test_a_version_that_never_reranked(path):
    write(path, [request_of(0, [], reranked=False)])
    result = read(path)
    (model,) = result.models
    assert (model.requests, model.not_reranked, model.queries, model.latency_ms) == (0, 1, 0, None)
    assert model.verdict == "unknown"
    assert "0 requests, 0 queries, 0 pairs\n1 searches NOT reranked (100.0 %" in render_report(result)
    json.dumps(result.to_json(), allow_nan=False)


def test_losses_are_shown(path):
    with Spool.open(path, create=True, max_bytes=20_000) as spool:
        spool.append(rows_of(traffic(60)), {"dropped_queue": 3})
    result = read(path)
    assert result.losses["dropped_queue"] == 3
    assert result.losses["evicted"] > 0
    text = render_report(result)
    assert "3 requests dropped because the disk could not keep up" in text
    assert "records deleted unsent because the spool was full" in text


def test_the_command_prints_text_and_json(path):
    write(path, [*traffic(40), request_of(99, [STRANGE], query="[red]what[/red] \x1b[31m <b>")])
    run = CliRunner().invoke
    result = run(monitor, ["--spool", str(path), "--top", "2"])
    assert result.exit_code == 0, result.output
    assert "tiny 1" in result.stdout and "41 requests" in result.stdout
    assert "[red]what[/red]" in result.stdout  # markup in a query is text
    with SpoolStore(path) as store:
        assert "�[31m" in render_report(report(store))  # and so is what a terminal would obey
    data = json.loads(run(monitor, ["--spool", str(path), "--json", "--top", "2"]).stdout)
    (model,) = data["models"]
    assert len(model["strangest"]) == 2
    assert model["verdict"] == "above"
    assert set(model["share_ood"]) == {"value", "low", "high", "total", "clusters"}
    assert data["counters"]["stored_records"] > 0


def test_an_empty_store_says_what_to_do(path):
    Spool.open(path, create=True).close()
    run = CliRunner().invoke
    text = run(monitor, ["--spool", str(path)]).stdout
    assert "No records yet." in text and "--ood-log" in text
    assert "earlier --since" in run(monitor, ["--spool", str(path), "--since", "7d"]).stdout
    write(path, traffic(3))
    with Spool.open(path) as spool:
        spool.settle(created=[r.seq for r in spool.take()])
    assert "read them with --url" in run(monitor, ["--spool", str(path)]).stdout
    assert json.loads(run(monitor, ["--spool", str(path), "--json"]).stdout)["models"] == []


@pytest.mark.parametrize("span", ["7", "d7", "7y", "yesterday", "-3d", "0001-01-01T00:00+23:00"])
def test_a_span_that_is_none_is_wrong_usage(path, span):
    Spool.open(path, create=True).close()
    result = CliRunner().invoke(monitor, ["--spool", str(path), f"--since={span}"])
    assert result.exit_code == 2
    assert "neither a span" in result.output


@pytest.mark.parametrize("span", ["90m", "12h", "7d", "4w", "999999w", "2026-01-01", "2026-01-01T12:00:00+02:00"])
def test_spans_and_dates(path, span):
    write(path, traffic(3))
    result = CliRunner().invoke(monitor, ["--spool", str(path), "--since", span])
    assert result.exit_code == 0, result.output
