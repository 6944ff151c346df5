"""The try-out page in a browser: by keyboard, with hostile texts, in both themes, wide and narrow."""

from __future__ import annotations

import pytest

from darl_opensearch.errors import ClusterError
from darl_opensearch.tryout.page import create_tryout_app
from tests.helpers.bundles import ITEMS
from tests.helpers.files import read_rows, write_rows
from tests.helpers.serving import serving
from tests.helpers.tryouts import trying

pytestmark = pytest.mark.browser
EVIL = "</script><script>document.title='had'</script><img src=x onerror=\"document.title='had'\">"
QUERY = "stolen bicycle luggage cover"


@pytest.fixture(scope="module")
def place(small, tiny, tmp_path_factory):
    """A page over two bundles, of which one has item states: its URL, what answers, and its judgments."""
    folder = tmp_path_factory.mktemp("tryout")
    items = [*ITEMS, {"id": EVIL, "name": f"Stolen {EVIL}", "kind": "luggage", "cover": f"stolen bicycle {EVIL}"}]
    judgments = folder / "mine.jsonl"
    with (
        trying([small[1], tiny], [write_rows(folder / "items.jsonl", items)], size=5, judgments=judgments) as tryout,
        serving(create_tryout_app(tryout)) as url,
    ):
        yield url, tryout, judgments


def settled(sheet):
    """Wait until the details of the chosen item are there."""
    from playwright.sync_api import expect

    sheet.locator("#details .tokens").wait_for()
    expect(sheet.locator("#details", has_text="Comparing tokens")).to_have_count(0)


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_a_search_by_keyboard(window, place, dark, width):
    url, _, judgments = place
    view = window(dark=dark, width=width)
    sheet = view.open(url)
    assert sheet.locator("#results").is_hidden() and view.faults() == []
    assert sheet.evaluate("document.activeElement.id") == "query"
    sheet.keyboard.type(QUERY)
    sheet.keyboard.press("Enter")
    settled(sheet)
    said = sheet.locator("#status").inner_text()
    assert said.startswith(f"5 hits for “{QUERY}”; ") and sheet.url == f"{url}?q=stolen+bicycle+luggage+cover"
    tables = sheet.locator("#orders table")
    captions = [table.locator("caption").inner_text() for table in tables.all()]
    assert captions == ["First stage", "Reranked by small 1", "Reranked by tiny 1"]
    moves = tables.nth(1).locator("tbody .place").all_inner_texts()
    assert len(moves) == 5 and all("was" in move or "unmoved" in move for move in moves)
    assert sheet.locator("#stages .stages").count() == 3
    assert sheet.locator("#details p.muted", has_text="no graphs for item states").count() == 1  # tiny's
    assert view.faults() == [] and not view.overflows()

    item = tables.nth(1).locator(".item").nth(1)
    item.press("Enter")
    settled(sheet)
    assert sheet.evaluate("document.activeElement.id") == "details-title"
    assert sheet.locator("#details-title").inner_text() == item.inner_text()
    token = sheet.locator(".token").first
    before = sheet.locator("#details .reading").first.evaluate("(e) => e.innerHTML")
    token.press("Enter")
    assert token.get_attribute("aria-pressed") == "true"
    assert sheet.locator("#details .reading").first.evaluate("(e) => e.innerHTML") != before
    cosine = float(sheet.locator("#details .tokens tbody tr").first.locator("td").last.inner_text())
    assert -1 <= cosine <= 1.03

    grade = sheet.locator("#judging button").nth(2)
    grade.press("Enter")
    sheet.locator("#judging [role=status]", has_text="Saved.").wait_for()
    assert sheet.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert read_rows(judgments)[-1]["grade"] == 2 and read_rows(judgments)[-1]["query"] == QUERY
    assert sheet.locator("#orders .badge.right, #orders .badge.wrong").count() >= 1
    assert view.faults() == []
    sheet.locator("#judging button", has_text="Take back").press("Enter")
    sheet.locator("#judging [role=status]", has_text="Taken back.").wait_for()
    assert read_rows(judgments) == []
    sheet.keyboard.press("Escape")
    assert sheet.evaluate("document.activeElement.className") == "item"
    assert {request.removeprefix(url) for request in view.asked} <= {"api/search", "api/why", "api/judge"}
    assert sheet.evaluate("document.querySelectorAll('svg.moves path.chosen').length") == (0 if width == 400 else 2)


def test_hostile_texts_are_only_text(window, place):
    url, *_ = place
    view = window()
    sheet = view.open(url)
    sheet.locator("#query").fill(f"stolen bicycle {EVIL}")
    sheet.locator("#form button").click()
    sheet.locator("#orders .item", has_text="onerror").first.click()
    settled(sheet)
    assert sheet.locator("#details-title").inner_text() == f"Stolen {EVIL}"
    tokens = "".join(sheet.locator(".token").all_inner_texts())
    assert tokens.startswith("stolenbicycle</script><script>")
    assert sheet.title() == f"stolen bicycle {EVIL} – Try out"
    assert sheet.locator("img, main script").count() == 0 and view.faults() == []
    sheet.reload()  # now from the address
    settled(sheet)
    assert sheet.locator("#query").input_value() == f"stolen bicycle {EVIL}"
    assert sheet.locator("img, main script").count() == 0


def test_what_goes_wrong_is_said_and_the_page_goes_on(window, place):
    url, tryout, _ = place
    view = window()
    sheet = view.open(f"{url}?q=stolen")
    settled(sheet)
    there = tryout.retriever

    class Away:
        name = "away"

        def retrieve(self, query, size):
            raise ClusterError("nobody answers", where="http://127.0.0.1:1", todo="start it")

    tryout.retriever = Away()
    sheet.locator("#query").fill("luggage")
    sheet.locator("#query").press("Enter")
    sheet.locator("#trouble", has_text="nobody answers. Start it.").wait_for()
    assert sheet.locator("#status").inner_text() == "Below are still the results for “stolen”."
    tryout.retriever = there
    sheet.locator("#query").press("Enter")
    sheet.locator("#status", has_text="“luggage”").wait_for()
    assert sheet.locator("#trouble").inner_text() == ""
    sheet.go_back()
    sheet.go_back()
    sheet.locator("#status", has_text="“stolen”").wait_for()
    sheet.locator("#query").fill("zzz")
    sheet.locator("#query").press("Enter")
    sheet.locator("#status", has_text="The first stage finds nothing for “zzz”.").wait_for()
    assert sheet.locator("#results").is_hidden()
    view.errors = [error for error in view.errors if "502" not in error]  # which the browser writes by itself
