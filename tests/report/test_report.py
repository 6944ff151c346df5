"""The report of a run or a cycle: the figures that were recorded, and what is said of those that were not."""

from __future__ import annotations

import json
import re

import pytest

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.web.chart import Chart
from tests.helpers.recorded import EVIL, GRADES, MAP, REASON, interval, write, write_recorded_cycle, write_run
from trainer.report import render_recorded, write_report
from trainer.report.cycle import cycle_parts
from trainer.report.parts import Missing
from trainer.report.recorded import read_recorded
from trainer.report.training import training_parts


def laid_out(folder, parts=training_parts):
    """Charts by key, what is missing, and the HTML of everything else."""
    pieces = parts(read_recorded(folder))
    charts = {piece.key: piece for piece in pieces if isinstance(piece, Chart)}
    missing = [piece.why for piece in pieces if isinstance(piece, Missing)]
    return charts, missing, "\n".join(piece for piece in pieces if isinstance(piece, str))


def rows(html, caption):
    """Cells of the table with a caption, without markup."""
    table = html[html.index(f"<caption>{caption}</caption>") :].partition("</table>")[0]
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")]
    return [row for row in found if row]


def ends(chart, place=0):
    series = chart.series[place]
    return list(zip(series.values, series.low, series.high, strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    return write_recorded_cycle(tmp_path_factory.mktemp("recorded") / "0003")


# ---- a run


def test_order_on_both_dev_sets_and_the_gap_by_stage(run):
    charts, missing, html = laid_out(run)
    order, gap = charts["order"], charts["gap"]
    assert list(order.names) == ["start", "head", "full (rolled back)", "augmented", "interpolate", "calibrated"]
    assert [series.name for series in order.series] == ["ID dev queries", "OOD dev queries"]
    assert ends(order)[:2] == [(0.6, 0.55, 0.65), (0.75, 0.7, 0.8)] and ends(order)[-1] == (0.74, 0.69, 0.79)
    assert order.series[1].values == [0.4, 0.5, 0.45, 0.62, 0.6, 0.6] and order.series[1].low[1] == 0.4
    assert gap.series[0].values == [0.2, 0.25, 0.25, 0.1, 0.14, 0.14] and gap.level == (0.0, "no gap")
    assert missing == []
    table = rows(html, "Figures by stage")
    assert table[2] == ["head", "ID dev queries", ".750 [.700, .800]", "0.500", "0.600", "0.030", "20", "100"]
    assert [row[:2] for row in table[-2:]] == [["calibrated", "ID dev queries"], ["calibrated", "OOD dev queries"]]


def test_curves_of_losses_and_of_the_interpolation(run):
    charts, _, _ = laid_out(run)
    drawn = {key: charts[key] for key in charts if key[-1].isdigit()}
    assert list(drawn) == ["loss-0", "loss-1", "rps-1", "loss-2", "rps-2", "mix-3"]
    loss = drawn["loss-0"]
    assert (loss.x, [(s.name, s.values) for s in loss.series]) == (
        [0, 1], [("training loss", [2.0, 1.0]), ("dev loss", [1.5, 1.25])]
    )  # fmt: skip
    # Before the first step there is no training loss: a gap, and no zero.
    assert [s.values for s in drawn["loss-1"].series] == [[None, 0.75]] and drawn["rps-1"].series[0].values == [
        0.2,
        0.25,
    ]
    assert drawn["loss-1"].title == "full (rolled back): loss"
    mix = drawn["mix-3"]
    assert mix.x == [0.0, 0.5, 1.0] and mix.marks == ((0.5, "chosen"),)
    assert [s.values for s in mix.series] == [[0.1, 0.12, 0.2], [0.3, 0.2, 0.25]]


def test_what_became_of_each_stage(run):
    table = rows(laid_out(run)[2], "Stages")
    assert table[0] == [
        "head", "kept", "ID dev queries", "+.010 [+.006, +.014]", "+.020 [-.010, +.050]", "30", "12"
    ]  # fmt: skip
    assert [row[1] for row in table[1:]] == [
        "rolled back: no gain beyond one standard error, or a loss beyond one", "left to interpolate", "coefficient 0.5"
    ]  # fmt: skip
    assert table[2][2] == "ID dev queries and OOD dev queries"


def test_confusion_and_reliability_of_the_dev_queries(run):
    charts, _, html = laid_out(run)
    table = rows(html, "ID dev queries: pairs by given and predicted grade")
    assert table[1] == ["some &lt;b&gt;", "10 (50 %)", "8 (40 %)", "2 (10 %)", "20"]
    assert rows(html, "OOD dev queries: pairs by given and predicted grade")[2] == ["all", "0", "0", "0", "0"]
    chart = charts["reliability"]
    assert chart.x == [0.6, 0.7, 0.9] == chart.series[2].values and chart.series[2].kind == "guide"
    assert chart.series[0].values == [0.5, None, 0.96] and chart.series[1].values == [None, 0.4, None]


def test_the_detector_and_the_data(run):
    html = laid_out(run)[2]
    assert rows(html, "False alarms on held-out traffic") == [
        ["not in training", ".047 [.037, .057]"],
        ["in training", "–"],
    ]
    flagged = rows(html, "Grades of pairs flagged as out of distribution, and of the others")
    assert flagged == [["ID dev queries", "13", "87", *[".250 [.200, .300]"] * 5]]
    assert ["items", "", "156", "d" * 16] in rows(html, "What was read")
    assert "calibrated on 1,437 pairs of 117 queries" in html and "loss cumulative + 1 × pairwise; seed 7" in html


def test_a_run_without_ood_dev_queries(tmp_path):
    charts, missing, html = laid_out(write_run(tmp_path / "run", ood_dev=False))
    assert missing == ["The run has no OOD dev queries ([data] ood_dev), so there is no OOD figure and no gap."]
    assert "gap" not in charts and [s.name for s in charts["order"].series] == ["ID dev queries"]
    assert "OOD dev queries: pairs" not in html


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_a_run_that_was_interrupted(tmp_path, stages):
    folder = write_run(tmp_path / "run", finished=False, stages=stages)
    charts, missing, html = laid_out(folder)
    assert [row[1] for row in rows(html, "Stages")].count("not finished") == 4 - stages
    assert any("has not finished: grades are measured at its end" in why for why in missing)
    assert any("the detector is fitted at its end" in why for why in missing)
    if stages:
        assert list(charts["order"].names) == ["head", "full (rolled back)"][:stages]
        assert any("figures of the start and of the end" in why for why in missing)
    else:
        assert charts == {} and any("No stage has finished" in why for why in missing)
    page, said = render_recorded(read_recorded(folder))
    assert f"{stages} of 4 stages are done; the same darl train command resumes it." in page and list(said) == missing


def test_figures_that_an_earlier_version_did_not_record_are_no_zeros(tmp_path):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    del result["grading"], result["ood"]["flagged"], result["dev_slices"]
    result["ndcg_intervals"] = {"start": interval(0.6), "dev": interval(0.74)}
    for stage in result["stages"]:
        del stage["ndcg_intervals"], stage["figures"]["ood_dev"]
    del result["stages"][0]["rps_gain"], result["stages"][0]["out_of_fold"]
    write(folder / "result.json", result)
    charts, missing, html = laid_out(folder)
    assert ends(charts["order"])[1] == (0.75, None, None)  # a figure, without the interval that it never had
    assert charts["order"].series[1].values == [0.4, None, None, None, None, 0.6]
    assert missing == [
        "No OOD figure was recorded after: head, full (rolled back), augmented, interpolate.",
        "No gap was recorded after: start, head, full (rolled back), augmented, interpolate, calibrated.",
        "Confusion and reliability were not recorded: the run was written by an earlier version.",
        "How wrong the grades of flagged pairs are was not measured.",
    ]
    assert rows(html, "Stages")[0][1] == "kept by an earlier version" and "gap" not in charts


def test_stages_that_ran_without_a_curve(tmp_path):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    result["stages"] = [stage | {"history": [], "curve": []} for stage in result["stages"][:1]]
    write(folder / "result.json", result)
    assert laid_out(folder)[1] == ["Stage head recorded no curve."]
    write(folder / "result.json", result | {"stages": []})
    charts, missing, _ = laid_out(folder)
    assert "The run has no stages." in missing and list(charts["order"].names) == ["start", "calibrated"]


# ---- a cycle


def test_the_gates_verdict_with_intervals_and_power(cycle):
    charts, _, html = laid_out(cycle, cycle_parts)
    order, grades = charts["gate-ndcg-10"], charts["gate-rps"]
    assert list(order.names) == ["in-distribution queries", "control arm"]
    assert ends(order) == [(-0.012, -0.028, 0.004), (-0.0033, -0.0143, 0.0077)]
    assert order.level[0] == pytest.approx(-0.018) and order.level[1] == "the interval must lie above -0.018"
    assert grades.level == (0.0, "no change")
    assert grades.series[1].values == [None, -0.0001]  # calibrated alike, on the control arm alone
    table = rows(html, "What had to hold")
    first = [
        "in-distribution queries",
        "nDCG@10",
        "44",
        ".800 [.750, .850]",
        ".788 [.738, .838]",
        "-.012 [-.028, +.004]",
    ]
    assert table[0] == [*first, "0.0586", "-0.018", "0.021", "678", "no"]
    gain = ["", "gain in RPS, calibrated alike", "", "", "", "-.000 [-.001, +.000]", "0.3100", "0", "0.001", "–", "no"]
    assert table[-1] == gain
    assert "The gate refused it." in html and "1 of 2 checks" in html
    assert rows(html, "Checks that did not pass")[0][:2] == ["template", "failed"]


def test_looks_at_the_control_arm(cycle):
    charts, _, html = laid_out(cycle, cycle_parts)
    assert list(charts["looks"].names) == ["look 1: 25 queries", "look 2: 50 queries"]
    assert charts["looks"].series[0].values == [-0.01, -0.005]
    assert [row[-2:] for row in rows(html, "Looks at the control arm")] == [["50 %", "continue"], ["–", "no"]]


def test_both_versions_in_and_out_of_distribution(cycle):
    charts, _, html = laid_out(cycle, cycle_parts)
    assert list(charts["versions"].names) == ["small-1", "small-2"]  # the serving one first
    assert [s.values for s in charts["versions"].series] == [[0.83, 0.82], [0.65, 0.71]]
    assert [s.name for s in charts["versions"].series] == ["in-distribution queries", "control arm"]
    assert charts["versions-gap"].series[0].values == [0.18, 0.11]
    reliability = charts["reliability-control"]
    assert [s.name for s in reliability.series] == ["small-1", "small-2", "accuracy equals confidence"]
    assert reliability.x == [0.6, 0.7, 0.9] and reliability.series[1].values == [None, 0.4, None]
    assert rows(html, "small-2 on the control arm: pairs by grade")[0] == [
        "none",
        "60 (91 %)",
        "6 (9 %)",
        "0 (0 %)",
        "66",
    ]


def test_the_map_of_what_was_selected(cycle):
    charts, _, html = laid_out(cycle, cycle_parts)
    chart = charts["map"]
    assert chart.x == [-0.5, -0.25, 0.0, 0.25, 0.5]
    assert [(s.name, s.values) for s in chart.series] == [
        ("trained on", [0.125, None, None, None, -0.25]), ("candidates not selected", [None, None, 0.5, None, None]),
        ("selected", [None, 0.625, None, 0.75, None]),
    ]  # fmt: skip
    texts = chart.labels[1]
    assert texts[0] == "car" and texts[1] == "x" * 199 + "…" and texts[3] == f"dog {EVIL}"
    assert "2 of 900 trained on; 1 of 1 candidates not selected; 2 of 2 selected" in html
    assert "they hold 25.0 % and 12.5 % of the variance" in html


def test_what_was_selected_and_judged(cycle):
    html = laid_out(cycle, cycle_parts)[2]
    assert rows(html, "Selected pairs by slice")[0] == ["(none)", "20"]
    assert [row[1] for row in rows(html, "Why the other queries are no candidates")] == ["116", "1"]
    assert [(row[0], row[-1]) for row in rows(html, "Judges")] == [("people", ".700 [.600, .800]"), ("judgments", "–")]
    assert "Of 329 logged queries 78 were candidates; herding chose 41 queries with 395 pairs" in html
    assert "has 50 queries" in html and rows(html, "Labels by grade")[2] == ["all", "71"]


def test_the_steps_of_a_refused_cycle_and_its_training(cycle):
    charts, missing, html = laid_out(cycle, cycle_parts)
    assert missing == [] and {"order", "gap", "mix-3", "reliability"} <= set(charts)
    table = rows(html, "Steps")
    assert [row[0] for row in table][-3:] == ["gate", "register", "release"]
    assert [row[2] for row in table][-3:] == ["refused", "not done", "not done"]
    assert table[2][2] == "version 2 on 300 new and 12 earlier pairs" and table[0][4] == "12.4 s"
    page, _ = render_recorded(read_recorded(cycle))
    assert "<title>Cycle 0003 of small</title>" in page and "<strong>Refused.</strong>" in page


@pytest.mark.parametrize("until", ["select", "judge", "train", "evaluate"])
def test_a_cycle_that_waits_says_what_is_not_there_yet(tmp_path, until):
    folder = write_recorded_cycle(tmp_path / "0001", until=until, ended=False)
    charts, missing, html = laid_out(folder, cycle_parts)
    following = {"select": "judge", "judge": "train", "train": "export", "evaluate": "gate"}[until]
    assert f"<strong>Not finished.</strong> The next step is {following}." in html
    assert any(why.startswith("The gate has not decided: ") for why in missing)
    assert ("map" in charts) and ("order" in charts) == (until in ("train", "evaluate"))
    assert ("versions" in charts) == (until == "evaluate") and not any(key.startswith("gate") for key in charts)
    if until == "select":
        assert "No label has been recorded: the step has not finished." in missing
        assert "There is no training: the cycle is at the step judge." in missing


def test_a_cycle_that_ended_early(tmp_path):
    folder = write_recorded_cycle(tmp_path / "0001", until="select", ended=False)
    write(folder / "outcome.json", {"outcome": "nothing", "said": "nothing was selected: the log is empty"})
    (folder / "select/map.json").unlink()
    _, missing, html = laid_out(folder, cycle_parts)
    assert "<strong>Nothing to learn from.</strong> Nothing was selected: the log is empty" in html
    assert "The gate has not decided: the cycle ended before it (nothing)." in missing
    assert "The map of the selected samples was not recorded: they were selected by an earlier version." in missing
    write(folder / "outcome.json", {"outcome": f"gone {EVIL}", "said": EVIL})  # edited
    page, missing = render_recorded(read_recorded(folder))
    assert "<img" not in page and any(EVIL in why for why in missing)


def test_a_cycle_without_a_control_arm_or_a_map(tmp_path):
    folder = write_recorded_cycle(tmp_path / "0001")
    path = folder / "evaluation/evaluation.json"
    found = json.loads(path.read_text())
    found["parts"], found["gaps"] = found["parts"][:1], []
    found["figures"] = [row for row in found["figures"] if row["part"] == "id"]
    write(path, found)
    write(folder / "select/map.json", MAP | {"explained": None})
    charts, missing, _ = laid_out(folder, cycle_parts)
    assert missing == [
        "No control query was judged when the versions were compared: there is no gap.",
        "There is no map: there are no queries, or the features of all are the same.",
    ]
    assert "versions-gap" not in charts and len(charts["versions"].series) == 1


# ---- the command


def test_the_command_writes_the_page_and_tells_what_is_missing(darl, run, tmp_path):
    said = darl("report", run, "--html", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == {"report": str(tmp_path / "page.html"), "of": "run", "missing": []}
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert not (run / "report.html").exists()
    folder = write_run(tmp_path / "run", ood_dev=False)
    said = darl("report", folder)
    assert said.out.splitlines()[0] == f"The report is in {folder / 'report.html'}."
    assert "no OOD dev queries" in said.out.splitlines()[1]
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "data.json", "report.html", "result.json", "root.txt", "stages"
    ]  # fmt: skip


def test_the_same_records_are_the_same_page(run, cycle, tmp_path):
    for folder in (run, cycle):
        pages = [write_report(folder, tmp_path / f"{n}.html").path.read_bytes() for n in range(2)]
        assert pages[0] == pages[1]


def test_a_folder_of_neither_is_refused(darl, tmp_path, run):
    said = darl("report", tmp_path)
    assert said.code == 2 and "neither a training run nor a cycle" in said.err and "cycles/0001" in said.err
    checkpoint = tmp_path / "checkpoint"  # of a bundle
    for name in ("config.json", "data.json"):
        write(checkpoint / name, json.loads((run / name).read_text()))
    with pytest.raises(UsageError, match="neither a training run nor a cycle"):
        write_report(checkpoint)
    assert darl("report", tmp_path / "none").code == 2


@pytest.mark.parametrize("name", ["result.json", "config.json", "data.json"])
def test_a_damaged_file_is_named(darl, tmp_path, name):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text("{")
    with pytest.raises(InputError, match=f"{name}: not JSON"):
        write_report(folder)
    said = darl("report", folder)
    assert said.code == 1 and len(said.err.splitlines()) == 1 and not (folder / "report.html").exists()


def test_texts_are_only_ever_text(cycle):
    page, _ = render_recorded(read_recorded(cycle))
    assert "<img" not in page and "document.title='had'</script>" not in page
    assert page.count("</script>") == 3  # of the data, uPlot and the charts: no text ends one
    assert GRADES[1] not in page and REASON not in page
