"""The page of the serving benchmarks shows what they left."""

from __future__ import annotations

import json

from benchmarks.serving import report


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
