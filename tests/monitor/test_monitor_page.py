"""The monitor's page, written and served, in a browser."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import uvicorn

from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.monitor.figures import Filters
from darl_opensearch.monitor.web import Traffic, create_monitor_app
from darl_opensearch.ood.spool import Spool
from tests.helpers.drift import DAY, STRANGE, USUAL, write_log
from tests.helpers.traffic import request_of, rows_of

EVIL = "</script><script>document.title='had'</script><img src=x onerror=\"document.title='had'\">"
UNTIL = DAY + timedelta(days=7)


@pytest.fixture(scope="module")
def log(world, tmp_path_factory):
    """Seven days: the fifth is strange and its texts are hostile; from the fourth on another version serves."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("log") / "ood.sqlite"
    days = [world.day(d, world.queries(60, rng)) for d in range(7)]
    days[4] = world.day(4, [f"{EVIL} {q}" for q in world.queries(60, rng, [*STRANGE, *USUAL[:3]])], push=1.0)
    write_log(path, [r for day in days[:3] for r in day], world.policy())
    write_log(path, [r for day in days[3:] for r in day], world.policy(version="2"))
    evil = request_of(0, [1.0, 0.99], query=EVIL, slice=EVIL, timestamp=DAY + timedelta(days=4, hours=9),
                      doc_ids=[EVIL, "b"], documents=[EVIL, "b"])  # fmt: skip
    failed = [request_of(9 + n, [], reranked=False, timestamp=DAY + timedelta(days=6, hours=2)) for n in range(3)]
    return write_log(path, [evil, *failed], world.policy(version="2"))


@pytest.fixture(scope="module")
def file(log, world, tmp_path_factory):
    from tests.helpers.commands import run_main

    path = tmp_path_factory.mktemp("page") / "monitor.html"
    said = run_main(
        "monitor", "--spool", log, "--window", "1d", "--top", 99, "--bundle", world.bundle.path, "--html", path
    )
    assert said.code == 0, said.err
    assert [p.name for p in path.parent.iterdir()] == ["monitor.html"]
    return path


@contextmanager
def serving(app):
    """An application on a free port, in a thread."""
    from darl_opensearch.io.listening import listen

    with listen("127.0.0.1", 0, todo="") as socket:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def site(log):
    traffic = Traffic(log, "the log", DriftConfig(window="1d"), grades=("no", "maybe", "<b>yes"))
    with serving(create_monitor_app(traffic, Filters(until=UNTIL))) as url:
        yield url


def rows(sheet, caption):
    """The cells of a table, by its caption."""
    table = sheet.locator("table").filter(has=sheet.locator("caption", has_text=caption))
    return [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]


@pytest.mark.browser
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_the_file_shows_what_is_wrong_and_where(window, file, dark, width):
    view = window(dark=dark, width=width)
    sheet = view.open(file)
    assert sheet.title().startswith("Traffic monitor: ")
    status = sheet.locator(".bad, .warn, .good").all_inner_texts()
    assert any("3 searches not reranked" in text for text in status)
    assert any("Earlier drift" in text and "2026-03-05" in text for text in status)
    assert sheet.locator("h2").first.inner_text() == "tiny 2, 2026-03-05: the highest drift"
    cards = dict(
        zip(sheet.locator(".cards dt").all_inner_texts(), sheet.locator(".cards dd").all_inner_texts(), strict=True)
    )
    assert cards["Verdict"].startswith("drift") and cards["Searches"].startswith("61")
    drawn = set(sheet.evaluate("Object.keys(charts.data.charts)"))
    assert (
        drawn == {"share", "slices", "grades", "searches", "failed", "latency"}
        and sheet.evaluate("charts.drawn.size") == 6
    )
    marks = sheet.evaluate("charts.data.charts.share")
    assert [label for _, label in marks["marks"]] == ["tiny 2"] and marks["flagged"]["at"] == [4]
    assert [s["name"] for s in marks["series"]] == ["tiny 1", "tiny 2"]
    assert marks["series"][0]["values"][3:] == [None] * 4 == [*marks["series"][1]["values"][:3], None]
    strange = rows(sheet, "Strangest queries")
    assert strange[0][0] == EVIL and len(strange) > 10
    assert any(row[1] == EVIL and row[0] == EVIL[:79] + "…" for row in rows(sheet, "Items with most OOD pairs"))
    assert {row[0] for row in rows(sheet, "Slices of this window")} >= {"pet", "travel"}
    assert sheet.locator(".theme summary").first.is_visible()
    for summary in sheet.locator("summary").all():
        summary.press("Enter")
    assert view.faults() == [] and not view.overflows() and view.asked == []
    assert sheet.locator("img").count() == 0 and sheet.locator("form").count() == 0


def test_the_file_needs_nothing_else(file):
    text = file.read_text(encoding="utf-8")
    assert "document.title='had'</script>" not in text and "<img" not in text
    assert not re.search(r'(src|href)="(?!data:,|#main")', text.partition("<script>")[0])
    assert "Features against tiny 1" in text and "What could not be tested, or only in part" in text


@pytest.mark.browser
def test_filters_are_in_the_url(window, site):
    view = window()
    sheet = view.open(site)
    sheet.locator("[name=model]").select_option("tiny 1")
    sheet.locator("[name=slice]").select_option("=pet")
    sheet.get_by_role("button", name="Show").press("Enter")
    sheet.wait_for_load_state()
    asked = {k: v[0] for k, v in parse_qs(urlsplit(sheet.url).query).items()}
    assert asked == {"model": "tiny 1", "slice": "=pet", "until": f"{UNTIL:%Y-%m-%dT%H:%M}"}
    assert sheet.locator("h2").first.inner_text().startswith("tiny 1, 2026-03-0")
    assert "slice pet" in sheet.locator("h2").first.inner_text()
    assert sheet.locator("[name=slice]").input_value() == "=pet"
    assert all(row[1] == "tiny 1" for row in rows(sheet, "Windows"))
    sheet.get_by_role("link", name="Show all").click()
    assert sheet.locator("h2").first.inner_text() == "tiny 2, 2026-03-05: the highest drift"
    sheet.goto(f"{site}?window=2026-03-02T00:00")
    assert sheet.locator("h2").first.inner_text() == "tiny 1, 2026-03-02: chosen"
    assert view.faults() == []


@pytest.mark.browser
def test_a_span_drawn_on_a_chart_goes_into_the_form(window, site):
    sheet = window().open(site)
    over = sheet.locator("#chart-share .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    sheet.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    sheet.mouse.down()
    sheet.mouse.move(box["x"] + box["width"] - 5, box["y"] + 40)
    sheet.mouse.up()
    assert sheet.locator("[name=since]").input_value() >= "2026-03-03" < sheet.locator("[name=until]").input_value()


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as err:
        return err.code, dict(err.headers), err.read().decode()


def test_the_same_figures_as_json(site, log, darl):
    served = json.loads(get(f"{site}figures.json?model=tiny+2")[2])
    assert {w["version"] for w in served["windows"]} == {"2"}
    said = darl("monitor", "--spool", log, "--window", "1d", "--json")
    printed = json.loads(said.out)["overview"]
    whole = json.loads(get(f"{site}figures.json")[2])
    assert printed["focus"] == whole["focus"] and printed["windows"] == whole["windows"]


def test_a_served_page_has_its_own_policy_and_hosts(site):
    status, headers, text = get(site)
    policy = headers["content-security-policy"]
    assert status == 200 and "script-src 'sha256-" in policy and policy.endswith("frame-ancestors 'none'")
    assert headers["cache-control"] == "no-store" and "unsafe" not in policy
    assert get(site, Host="evil.example")[0] == 421
    assert "&lt;b&gt;yes" in text and "<b>yes" not in text


@pytest.mark.parametrize("query", ["since=soon", "until=99999-01-01", "window=0001-01-01", "since=" + "x" * 500])
def test_a_filter_that_is_none_is_refused(site, query):
    status, _, text = get(f"{site}?{query}")
    assert status == 400 and "is not a time" in text and len(text) < 10_000


def test_filters_that_match_nothing_say_so(site):
    for query in ("model=no", "slice=%3Dno", "since=2030-01-01", "until=1980-01-01"):
        status, _, text = get(f"{site}?{query}")
        assert status == 200 and "No records match" in text


@pytest.mark.browser
@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_log_and_one_of_a_single_request(window, tmp_path, darl, count):
    with Spool.open(tmp_path / "log.db", create=True) as spool:
        spool.append(rows_of([request_of(n, [0.99], query=EVIL) for n in range(count)]))
    said = darl("monitor", "--spool", tmp_path / "log.db", "--html", tmp_path / "page.html")
    assert said.code == 0, said.err
    view = window()
    sheet = view.open(tmp_path / "page.html")
    text = sheet.locator("main").inner_text()
    assert ("No records yet" in text) == (not count) and ("Not tested." in text) == bool(count)
    assert view.faults() == [] and sheet.title().startswith("Traffic monitor")


def test_a_spool_that_is_gone_is_told(tmp_path, log):
    with serving(create_monitor_app(Traffic(tmp_path / "no.db", "no"), Filters())) as url:
        status, _, text = get(url)
    assert status == 400 and "the spool does not exist" in text


def test_serving_excludes_what_is_written(darl, log):
    said = darl("monitor", "--spool", log, "--web", "--json")
    assert said.code == 2 and "--web serves the page" in said.err
