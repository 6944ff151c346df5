"""The monitor's page, written and served, in a browser."""

from __future__ import annotations

import html
import json
import re
import shlex
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import uvicorn

from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.monitor.figures import Filters, ReleaseMark, list_views
from darl_opensearch.monitor.page import describe_length, render_monitor_page
from darl_opensearch.monitor.web import Traffic, create_monitor_app, parse_filters
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
    assert sheet.locator("img").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_the_files_filters_need_no_server(window, file, site, tmp_path, darl, dark, width):
    """Each choice has its own URL, and shows what the served page shows for it; what is not carried has a command."""
    from playwright.sync_api import expect

    view, served = window(dark=dark, width=width), window()
    sheet, other = view.open(file), served.open(site)
    first = sheet.locator("[data-part=main]").inner_text()
    show, heading = sheet.get_by_role("button", name="Show"), sheet.locator("h2").first
    asked = []
    for choice in (
        {"slice": "=pet"},
        {"model": "tiny 1"},
        {"model": "tiny 2", "slice": "=travel"},
        {"window": "2026-03-07T00:00"},
    ):
        for name in ("model", "slice", "window"):
            sheet.locator(f"[name={name}]").select_option(choice.get(name, ""))
        show.press("Enter")
        other.goto(f"{site}?{urlencode(choice)}")
        expect(heading).to_have_text(other.locator("h2").first.inner_text())
        assert {k: v[0] for k, v in parse_qs(urlsplit(sheet.url).fragment).items()} == choice
        asked.append((sheet.url, heading.inner_text()))
        for caption in ("Windows", "Strangest queries"):
            assert rows(sheet, caption)[:10] == rows(other, caption)[:10], caption
        names = "charts.drawn.size, charts.data.charts.share.x, charts.data.charts.share.series.map((s) => s.name)"
        assert sheet.evaluate(f"[{names}]") == other.evaluate(f"[{names}]")
        assert not view.overflows()
    assert (
        view.faults() == []
        and len({text for _, text in asked}) == 4
        and sheet.locator("#shown").inner_text() == "Shown: 2026-03-07 00:00."
    )
    sheet.go_back()
    expect(heading).to_have_text(asked[2][1])
    sheet.goto(asked[0][0])
    sheet.reload()
    expect(heading).to_have_text(asked[0][1])
    assert sheet.locator("[name=slice]").input_value() == "=pet"
    sheet.locator(".skip").focus()
    sheet.locator(".skip").press("Enter")
    assert sheet.evaluate("new Promise((done) => setTimeout(() => done(location.hash), 50))") == "#main"
    assert heading.inner_text() == asked[0][1]
    sheet.get_by_role("link", name="Show all").click()
    expect(heading).to_have_text("tiny 2, 2026-03-05: the highest drift")
    assert sheet.locator("[data-part=main]").inner_text() == first and view.asked == [file.as_uri()]  # reloaded

    sheet.locator("[name=model]").select_option("tiny 1")
    sheet.locator("[name=window]").select_option("2026-03-07T00:00")
    sheet.locator("[name=until]").fill("2026-03-07T00:00")
    show.click()
    expect(sheet.locator("#missing")).to_be_visible()
    command = shlex.split(sheet.locator("#missing code").inner_text())
    assert command[0] == "darl" and command[-8:] == [
        "--html", "FILE", "--model", "tiny 1", "--at", "2026-03-07T00:00", "--until", "2026-03-07T00:00",
    ]  # fmt: skip
    assert (
        sheet.locator("[data-part=main]").inner_text() == ""
        and sheet.locator(".plot").count() == 0
        and view.faults() == []
    )
    command[command.index("FILE")] = tmp_path / "other.html"
    assert darl(*command[1:]).code == 0
    text = view.open(tmp_path / "other.html").locator("main").inner_text()
    assert "No window holds 2026-03-07 00:00." in text and "tiny 1, 2026-03-0" in text


@pytest.mark.browser
def test_a_period_chosen_in_the_file_cuts_charts_and_tables(window, file):
    from playwright.sync_api import expect

    view = window()
    sheet = view.open(file)
    whole = rows(sheet, "Windows")
    sheet.locator("[name=since]").fill("2026-03-02T00:00")
    sheet.locator("[name=until]").fill("2026-03-04T12:00")
    sheet.get_by_role("button", name="Show").click()
    expect(sheet.locator("#shown")).to_contain_text("Shown")
    assert urlsplit(sheet.url).fragment == "since=2026-03-02T00%3A00&until=2026-03-04T12%3A00"
    hidden = sheet.locator("table").filter(has_text="p (Holm)").last.locator("tbody tr[hidden]").count()
    assert hidden == len(whole) - 3
    ends = "(([plot]) => [plot.scales.x.min, plot.scales.x.max])([...charts.drawn.values()])"
    days = [(DAY + timedelta(days=d)).timestamp() for d in (1, 3.5)]
    assert sheet.evaluate(ends) == days
    said = sheet.locator("#shown").inner_text()
    assert said.startswith("Shown: from 2026-03-02 00:00 to 2026-03-04 12:00.") and "-05 00:00, is outside" in said
    sheet.emulate_media(color_scheme="dark")  # everything is drawn anew
    assert sheet.evaluate(ends) == days
    sheet.goto(f"{file.as_uri()}#since=soon&until=")
    sheet.reload()
    assert len(rows(sheet, "Windows")) == len(whole) and sheet.locator("tr[hidden]").count() == 0
    assert view.errors == []


def test_a_file_carries_no_more_than_its_size_allows(log, monkeypatch):
    traffic = Traffic(log, "the log", DriftConfig(window="1d"))
    found = traffic.read(Filters(until=UNTIL))
    whole = render_monitor_page(found, views=traffic.views(found))
    assert whole.count("<template data-view=") == len(list(list_views(found))) >= 8
    monkeypatch.setattr("darl_opensearch.monitor.page.MOST_CARRIED", 100_000)
    less = render_monitor_page(found, views=traffic.views(found))
    assert 4 <= less.count("<template data-view=") < 8
    assert len(less) < len(render_monitor_page(found)) + 110_000


def test_a_filtered_file_offers_what_is_left(log):
    traffic = Traffic(log, "the log", DriftConfig(window="1d"))
    found = traffic.read(Filters(until=UNTIL, slice="pet", model="tiny 2"))
    text = render_monitor_page(found, views=traffic.views(found))
    assert all(f.slice == "pet" and f.model == "tiny 2" and f.window for f in list_views(found))
    assert '<select name="slice"><option value="" selected>pet</option></select>' in text
    assert '<select name="model"><option value="" selected>tiny 2</option></select>' in text


def test_the_file_needs_nothing_else(file):
    text = file.read_text(encoding="utf-8")
    assert "document.title='had'</script>" not in text and "<img" not in text
    assert not re.search(r'(src|href)="(?!data:,|#(main)?")', text.partition("<script>")[0])
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


RELEASES = (
    ReleaseMark(DAY - timedelta(days=3), "release", "tiny 1"),
    ReleaseMark(DAY + timedelta(days=3, hours=6), "release", "tiny 2", True, EVIL),
    ReleaseMark(DAY + timedelta(days=5, hours=7), "refused", "tiny 3", False, "the gate refused the bundle"),
    ReleaseMark(DAY + timedelta(days=6, hours=20), "rollback", "tiny 1"),
)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_releases_are_on_the_time_line(window, log, dark):
    """Also one after the last window has begun, for which there is no point yet."""
    traffic = Traffic(log, "the log", DriftConfig(window="1d"), releases=RELEASES)
    view = window(dark=dark)
    with serving(create_monitor_app(traffic, Filters(until=UNTIL))) as url:
        sheet = view.open(url)
        listed = rows(sheet, "Releases")
        assert [row[1:4] for row in listed] == [
            ["rollback", "tiny 1", "–"], ["refused", "tiny 3", "refused"], ["release", "tiny 2", "passed"],
            ["release", "tiny 1", "–"],
        ]  # fmt: skip
        assert listed[2][0] == "2026-03-04 06:00" and listed[2][4] == EVIL
        share = sheet.evaluate("charts.data.charts.share.marks")
        assert [label for _, label in share] == ["release: tiny 2", "refused: tiny 3", "rollback: tiny 1"]
        ends = sheet.evaluate(
            "(({min, max}) => [min, max])(charts.drawn.get(document.querySelector('.plot')).scales.x)"
        )
        assert ends[0] < DAY.timestamp() and ends[1] > share[-1][0] > (DAY + timedelta(days=6)).timestamp()
        assert view.faults() == [] and not view.overflows()
        some = json.loads(get(f"{url}figures.json?since=2026-03-05T00:00&until=2026-03-07T12:00")[2])
        assert [r["event"] for r in some["releases"]] == ["refused"]
        assert some["releases"][0] == {
            "time": "2026-03-06T07:00:00.000Z", "event": "refused", "version": "tiny 3", "gate": False,
            "note": "the gate refused the bundle",
        }  # fmt: skip


def test_a_history_that_cannot_be_read_is_said(log):
    traffic = Traffic(log, "the log", releases_unread="no permissions for [<i>]")
    with serving(create_monitor_app(traffic, Filters(until=UNTIL))) as url:
        assert "the history could not be read. no permissions for [&lt;i&gt;]" in get(url)[2]
        assert json.loads(get(f"{url}figures.json")[2])["releases_unread"] == "no permissions for [<i>]"


def test_what_a_cycle_would_choose_from(log, world, darl, tmp_path):
    """The command on the page works as it stands."""
    said = darl(
        "monitor", "--spool", log, "--bundle", world.bundle.path, "--window", "1d", "--json", "--html", tmp_path / "p"
    )
    flagged = json.loads(said.out)["overview"]["focus"]["flagged"]
    assert 9 < flagged["queries"] <= flagged["searches"] <= 61
    text = (tmp_path / "p").read_text(encoding="utf-8")
    assert f"<p>{flagged['queries']} of 61 queries ({flagged['searches']} searches) flagged: at least 25 %" in text
    command = shlex.split(html.unescape(re.search(r"<pre[^>]*><code>(darl select.*?)</code>", text)[1]))
    assert command[:3] == ["darl", "select", str(world.bundle.path)] and command[-3] == "--since"
    counted = darl(*command[1:], "--json")
    assert counted.code == 0 and json.loads(counted.out)["dry_run"], counted.err


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


def test_a_written_page_can_be_filtered(darl, log, tmp_path):
    written = darl(
        "monitor", "--spool", log, "--window", "1d", "--html", tmp_path / "p", "--json", "--slice", "pet",
        "--model", "tiny 2", "--at", "2026-03-06T13:00", "--until", "2026-03-07T00:00",
    )  # fmt: skip
    found = json.loads(written.out)["overview"]
    assert found["filters"]["slice"] == "pet" and found["until"] == "2026-03-07T00:00:00.000Z"
    assert [w["start"][:10] for w in found["windows"]] == ["2026-03-04", "2026-03-05", "2026-03-06"]
    assert "<h2>tiny 2, 2026-03-06, slice pet: chosen</h2>" in (tmp_path / "p").read_text(encoding="utf-8")
    none = darl(
        "monitor", "--spool", log, "--window", "1d", "--html", tmp_path / "p", "--slice", "no", "--at", "2026-01-01"
    )
    assert none.code == 0 and "No records match" in (tmp_path / "p").read_text(encoding="utf-8")
    unnamed = darl("monitor", "--spool", log, "--window", "1d", "--json", "--slice", "")
    assert [w["not_reranked"] for w in json.loads(unnamed.out)["overview"]["windows"]] == [3]
    darl("monitor", "--spool", log, "--window", "1d", "--html", tmp_path / "p", "--at", "2026-01-01")
    assert "No window holds 2026-01-01 00:00. Shown instead:" in (tmp_path / "p").read_text(encoding="utf-8")
    said = darl("monitor", "--spool", log, "--slice", "pet")
    assert said.code == 2 and "--slice and --at filter the page" in said.err


def test_the_files_command_has_the_options_that_it_was_written_with(darl, log, world, tmp_path, monkeypatch):
    monkeypatch.setenv("DARL_SPOOL", str(log))
    given = ("--since", "2026-03-02", "--one-in", "50", "--slice", "pet", "--aws-service", "es")
    said = darl("monitor", "--bundle", world.bundle.path, "--json", "--html", tmp_path / "p", "--top", 3, *given)
    assert said.code == 0, said.err
    command = json.loads(re.search(r'"command":(".*?[^\\]")', (tmp_path / "p").read_text(encoding="utf-8"))[1])
    words = shlex.split(command)
    assert words[:6] == ["darl", "monitor", "--spool", str(log), "--bundle", str(world.bundle.path)]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    assert options == {
        "--since": "2026-03-02T00:00:00.000Z", "--one-in": "50", "--top": "3", "--slice": "pet", "--html": "FILE",
    }  # fmt: skip
    assert darl(*(word.replace("FILE", str(tmp_path / "q")) for word in words[1:])).code == 0
    first, second = ((tmp_path / name).read_text(encoding="utf-8").partition("<h2>")[2] for name in "pq")
    assert first.partition("<script")[0] == second.partition("<script")[0]


def test_a_served_page_opens_with_the_filters_in_its_url(log, darl, monkeypatch):
    told = []
    monkeypatch.setattr("darl_opensearch.web.serve.serve_page", lambda app, port, announce: told.append(announce("U/")))
    said = darl("monitor", "--spool", log, "--web", "--slice", "", "--model", "tiny 2", "--at", "2026-03-05")
    assert "U/?model=tiny+2&slice=%3D&window=2026-03-05T00%3A00 " in said.err and told == [None]
    asked = parse_filters({"model": "tiny 2", "slice": "=", "window": "2026-03-05T00:00"}, Filters())
    assert asked == Filters(model="tiny 2", slice="", window=DAY + timedelta(days=4))
    assert "U/ (press" in darl("monitor", "--spool", log, "--web").err


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (86400, "a day"),
        (3600, "an hour"),
        (60, "a minute"),
        (7 * 86400, "7 days"),
        (43200, "12 hours"),
        (5400, "90 minutes"),
    ],
)
def test_the_length_of_a_window_in_words(seconds, wanted):
    assert describe_length(seconds) == wanted
