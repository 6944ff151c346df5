"""The page of the serving benchmarks shows what they left."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import onnx
import pytest

from benchmarks.measuring import choose_out, describe_machine, write_result
from benchmarks.pages import filled
from benchmarks.serving import __main__ as everything
from benchmarks.serving import merging, report
from benchmarks.serving.peers import ENGINES
from benchmarks.serving.profile import GRADES, KERNELS, OOD, SCORE, SIMILARITIES, ScoreAlone, group_meet
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore


def test_the_page_shows_the_committed_results():
    assert report.is_fresh(), "run: python -m benchmarks.serving.report"


def test_fastest_first_and_ours_marked():
    result = json.loads((report.RESULTS / "peers.json").read_text(encoding="utf-8"))
    lines = [
        line
        for line in report.render_peers(result).splitlines()
        if line.startswith("|") and " to " in line and "5 to 95 %" not in line
    ]
    shown = [line.split("|")[1].strip() for line in lines]
    assert [name.strip("*") for name in shown] == [
        name for rows in result["workloads"].values() for name in sorted(rows, key=lambda name: rows[name]["ms"]["p50"])
    ]
    assert all(name.startswith("**") == name.strip("*").startswith(("item states", "pairs")) for name in shown)


def test_an_engine_that_was_not_measured_has_a_row_that_says_so():
    result = json.loads((report.RESULTS / "peers.json").read_text(encoding="utf-8"))
    name = "OpenVINO, int8"
    assert any(engine.name == name for engine in ENGINES)
    for rows in result["workloads"].values():
        del rows[name]
    lines = [line for line in report.render_peers(result).splitlines() if line.startswith(f"| {name} ")]
    assert len(lines) == 3 and all("not measured" in line for line in lines)


def test_results_of_other_machines_are_shown_after_the_first(tmp_path):
    for name in ("load", "load-int8", "load-amx"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}))
    page = "<!-- load: begin -->\n<!-- load: end -->"
    shown = filled(page, {"load": (tmp_path / "load*.json", lambda result: result["name"])})
    assert shown.split()[4:-4] == ["load", "load-amx", "load-int8"]


def test_a_result_of_another_processor_is_not_written_over(tmp_path):
    path = tmp_path / "peers.json"
    assert choose_out(None, path) == path and choose_out(None, path, int8=True) == tmp_path / "peers-int8.json"
    here = describe_machine()
    write_result(path, here)
    assert choose_out(None, path) == path
    for other in (
        {},
        here | {"processor": "another"},
        here | {"flags": here["flags"] | {"avx2": not here["flags"]["avx2"]}},
    ):
        write_result(path, other)
        with pytest.raises(SystemExit, match=r"is of another processor .* --out .*peers-NAME.json"):
            choose_out(None, path)
        assert choose_out(tmp_path / "peers-here.json", path) == tmp_path / "peers-here.json"


def test_one_command_for_each_result_of_the_page(tmp_path):
    assert {name.removesuffix("-int8") for name in everything.RUNS} == report.RENDER.keys()
    commands = everything.list_commands(tmp_path, list(everything.RUNS), "amx", "python3")
    outs = [words[words.index("--out") + 1] for words in commands.values() if "--out" in words]
    assert len(set(outs)) == len(commands) - 1 and all(out.endswith("-amx.json") for out in outs)
    assert commands["peers"][-4:-2] == ["--peers-python", "python3"]


def test_nodes_are_grouped_by_the_columns_that_need_them(small):
    graph = onnx.load(small[1].file("meet.onnx")).graph
    groups = group_meet(graph)
    by_operator = {node.op_type: groups[node.name] for node in graph.node}
    wanted = {"MatMulInteger": SIMILARITIES, "Exp": KERNELS, "ReduceMax": KERNELS, "Sigmoid": SCORE, "Sqrt": OOD}
    assert wanted.items() <= by_operator.items()
    assert {SIMILARITIES, KERNELS, SCORE, GRADES, OOD} <= set(groups.values())


def test_the_graph_of_the_score_alone_has_the_score(small, tmp_path):
    _, bundle = small
    items = ["bicycle theft", "storm damage to a roof", "x"]
    with StateStore(None) as store, Scorer.open(bundle, states=store) as scorer:
        whole, _ = scorer.halves.score("my bike was stolen", items)
        scorer.halves._meet, scorer.halves._width = ScoreAlone(bundle.file("meet.onnx"), tmp_path), 1
        alone, _ = scorer.halves.score("my bike was stolen", items)
    assert alone.shape == (3, 1) and np.array_equal(alone[:, 0], whole[:, 0])


def test_queries_encoded_in_one_pass_are_the_same(small):
    queries = ["my bike was stolen", "x", "storm damage to a roof in the winter"]
    with StateStore(None) as store, Scorer.open(small[1], states=store) as scorer:
        half = scorer.halves
        merging.encode_queries(half, queries)
        together = [half.encode_query(query) for query in queries]
        half._query_cache.clear()
        alone = [half.encode_query(query) for query in queries]
    for one, two in zip(together, alone, strict=True):
        assert one.keys() == two.keys() and all(np.allclose(one[name], two[name], atol=1) for name in one)
        assert np.allclose(one["query_pooled"], two["query_pooled"], atol=1e-6)


@pytest.mark.parametrize("name", ["__main__", "batching", "http", "load", "merging", "peers", "profile"])
@pytest.mark.parametrize(("folder", "message"), [("", "DARL_DATA is not set"), ("nosuch", "DARL_DATA names no folder")])
def test_a_benchmark_of_real_texts_says_at_once_where_they_are_missing(monkeypatch, capsys, name, folder, message):
    monkeypatch.setenv("DARL_DATA", folder)
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.serving.{name}").main()
    assert ended.value.code == 2 and message in capsys.readouterr().err
