"""Pages with charts in a browser: drawn, themed, reachable without seeing them, and deaf to what texts say."""

from __future__ import annotations

import pytest

from darl_opensearch.web.chart import Chart, Series
from darl_opensearch.web.page import page
from tests.web.test_web_page import CHART, EVIL

pytestmark = pytest.mark.browser
DAY = 86400.0
START = 1_772_323_200.0
X = [START + DAY * day for day in range(30)]
CHARTS = [
    CHART,
    Chart("mix", "Grades", X, [Series(name, [0.2 + 0.001 * day for day in range(30)]) for name in "abcdef"],
          unit="percent"),
    Chart("p", "p-values", X, [Series("share", [10.0 ** -(day % 8) for day in range(30)], kind="marks")], unit="p",
          level=(0.01, "level"), flagged=([7], "drift")),
    Chart("one", "One point", [START], [Series("share", [0.05], [0.01], [0.1])], unit="percent", level=(0.05, "alpha")),
    Chart("none", "None", [], [Series("share", [])]),
    Chart("bars", "Bars", [0.0, 1.0, 2.0], [Series("pairs", [3.0, 5.0, 2.0], kind="bars")], unit="count", time=False),
    Chart("named", "Named", [0.0, 1.0, 2.0],
          [Series(name, [-0.2, -0.1, None], [-0.3, -0.2, None], [-0.1, -0.05, None], "marks") for name in "ab"],
          time=False, names=("start", "a stage with a long name", "end"), level=(-0.15, "bound")),
    Chart("map", "Map", [-1.0, 0.0, 0.0, 1.0],
          [Series("a", [0.5, None, -0.5, None], kind="marks"), Series("b", [None, 0.25, None, 0.0], kind="marks"),
           Series("same", [-1.0, 0.0, 0.0, 1.0], kind="guide")],
          time=False, labels=("query", ("w", "x", "y", "z")), height=420),
    Chart("many", "Many", [START + 60 * i for i in range(100_000)],
          [Series("share", [(i % 100) / 100 for i in range(100_000)], [0.0] * 100_000, [1.0] * 100_000)],
          unit="percent"),
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("charts") / "page.html"
    few = [chart for chart in CHARTS if chart.key != "many"]
    body = ["<h1>Charts</h1>", f"<p>{EVIL}</p>".encode("utf-8", "replace").decode(), *(c.figure() for c in few)]
    path.write_text(page("Charts", body[:1] + body[2:], charts=few), encoding="utf-8")
    (path.parent / "unescaped.html").write_text(page("Charts", body, charts=few), encoding="utf-8")
    many = CHARTS[-1]
    (path.parent / "many.html").write_text(page("Many", ["<h1>x</h1>", many.figure()], charts=[many]))
    return path


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_charts_are_drawn_and_accessible(window, file, dark, width):
    view = window(dark=dark, width=width)
    sheet = view.open(file)
    assert sheet.evaluate("charts.drawn.size") == 7  # all but the empty one
    assert sheet.locator("#chart-map canvas").evaluate("(e) => e.clientHeight") == 420
    low, high = sheet.evaluate(
        """() => { const {y} = charts.drawn.get(document.querySelector("[data-chart=named]")).scales;
             return [y.min, y.max]; }"""
    )
    assert low < -0.3 and high == 0  # values below 0 are not squeezed under an empty half
    assert sheet.locator("#chart-none .plot").inner_text() == "Nothing to draw."
    inks = sheet.evaluate(
        """[...document.querySelectorAll("canvas")].map((canvas) => {
             const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
             let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0; return n; })"""
    )
    assert min(inks) > 1000
    for summary in sheet.locator("summary").all():
        summary.press("Enter")  # the tables open by keyboard
    assert sheet.locator("#chart-one td").all_inner_texts() == ["2026-03-01 00:00", "5.0 %", "1.0 % to 10.0 %"]
    assert view.faults() == [] and not view.overflows() and view.asked == []
    assert sheet.title() == "Charts"


def test_a_pointer_reads_a_value_and_selects_a_span(window, file):
    view = window()
    sheet = view.open(file)
    sheet.evaluate("document.addEventListener('darl-select', (event) => { window.selected = event.detail; })")
    over = sheet.locator("#chart-mix .u-over")
    over.scroll_into_view_if_needed()
    over.hover()
    assert sheet.locator("#chart-mix .readout").inner_text().startswith("2026-03-15 00:00: a 21.4 %; b 21.4 %")
    box = over.bounding_box()
    sheet.mouse.move(box["x"] + 100, box["y"] + 50)
    sheet.mouse.down()
    sheet.mouse.move(box["x"] + 300, box["y"] + 50)
    sheet.mouse.up()
    selected = sheet.evaluate("selected")
    assert X[0] < selected["from"] < selected["to"] < X[-1]


def test_the_skip_link_is_the_first_stop(window, file):
    sheet = window().open(file)
    sheet.keyboard.press("Tab")
    assert sheet.evaluate("document.activeElement.textContent") == "Skip to the content"
    sheet.keyboard.press("Enter")
    assert sheet.evaluate("location.hash") == "#main"


def test_markup_that_was_not_escaped_does_not_run(window, file):
    """What a page forgets to escape, its policy still stops."""
    view = window()
    sheet = view.open(file.with_name("unescaped.html"))
    assert sheet.title() == "Charts" and sheet.locator("img").count() == 1
    assert any("Content Security Policy" in error for error in view.errors)
    view.errors.clear()


def test_a_hundred_thousand_points_are_drawn(window, file):
    sheet = window().open(file.with_name("many.html"))
    assert sheet.evaluate("charts.drawn.size") == 1
