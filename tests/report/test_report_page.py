"""The report in a browser: drawn, in both themes, wide and narrow, by keyboard, with hostile texts."""

from __future__ import annotations

import pytest

from tests.helpers.recorded import EVIL, write_recorded_cycle, write_run
from trainer.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Reports of a run, of one that was interrupted, and of a cycle."""
    folder = tmp_path_factory.mktemp("reports")
    return {
        "run": write_report(write_run(folder / "run")).path,
        "interrupted": write_report(write_run(folder / "interrupted", finished=False, stages=1)).path,
        "cycle": write_report(write_recorded_cycle(folder / "0003")).path,
    }


def rows(sheet, caption):
    """The cells of a table, by its caption."""
    table = sheet.locator("table").filter(has=sheet.locator("caption", has_text=caption)).first
    return [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_a_cycle(window, files, dark, width):
    view = window(dark=dark, width=width)
    sheet = view.open(files["cycle"])
    assert sheet.title() == "Cycle 0003 of small"
    assert sheet.locator(".bad").first.inner_text().startswith("Refused. The gate refused it: in-distribution queries")
    charts = sheet.evaluate("Object.keys(charts.data.charts)")
    assert {"gate-ndcg-10", "gate-rps", "looks", "versions", "map", "order", "gap", "loss-0", "mix-3"} <= set(charts)
    assert sheet.evaluate("charts.drawn.size") == len(charts) == sheet.locator("figure.chart details table").count()
    inks = sheet.evaluate(
        """[...document.querySelectorAll("canvas")].map((canvas) => {
             const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
             let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0; return n; })"""
    )
    assert min(inks) > 500
    for summary in sheet.locator("summary").all():
        summary.press("Enter")  # the tables open by keyboard
    assert rows(sheet, "Selected queries among those trained on")[3][:2] == [f"dog {EVIL}", "0.25"]
    assert rows(sheet, "Judges")[0][2] == EVIL
    assert sheet.locator(".missing").count() == 0 and sheet.locator("img").count() == 0
    assert view.faults() == [] and not view.overflows() and view.asked == []


@pytest.mark.parametrize("which", ["run", "interrupted"])
def test_a_run(window, files, which):
    view = window()
    sheet = view.open(files[which])
    assert sheet.title() == "Training of small 2"
    state = sheet.locator(".good, .warn").first.inner_text()
    assert state == {
        "run": "Finished. 3 of 4 stages were kept.",
        "interrupted": "Not finished. 1 of 4 stages are done; the same darl train command resumes it.",
    }[which]  # fmt: skip
    assert sheet.locator(".missing").count() == (0 if which == "run" else 3)
    for summary in sheet.locator("summary").all():
        summary.press("Enter")
    assert view.faults() == [] and not view.overflows() and view.asked == []


def test_the_pointer_names_the_query_of_a_mark(window, files):
    sheet = window().open(files["cycle"])
    over = sheet.locator("#chart-map .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    at = sheet.evaluate(
        """() => { const u = charts.drawn.get(document.querySelector("[data-chart=map]"));
             return [u.valToPos(0, "x"), u.valToPos(0.5, "y")]; }"""
    )
    sheet.mouse.move(box["x"] + at[0] + 2, box["y"] + at[1] + 2)
    readout = sheet.locator("#chart-map .readout")
    assert readout.inner_text() == "cat: candidates not selected 0.5"
    sheet.mouse.move(box["x"] + at[0], box["y"] + box["height"] + 200)
    sheet.mouse.move(0, 0)
    assert readout.inner_text() == ""


def test_names_stand_on_the_axis_and_under_the_pointer(window, files):
    sheet = window().open(files["run"])
    over = sheet.locator("#chart-order .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    left = sheet.evaluate("""() => charts.drawn.get(document.querySelector("[data-chart=order]")).valToPos(1, "x")""")
    sheet.mouse.move(box["x"] + left, box["y"] + 40)
    said = sheet.locator("#chart-order .readout").inner_text()
    assert said == "head: ID dev queries 0.75 (0.7 to 0.8); OOD dev queries 0.5 (0.4 to 0.6)"
    ticks = sheet.evaluate("""() => charts.drawn.get(document.querySelector("[data-chart=order]")).axes[0]._values""")
    assert ticks[0] == "start" and ticks[1] == "head" and len(ticks) == 6
