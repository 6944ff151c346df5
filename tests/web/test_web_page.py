"""Pages in HTML: whole, styled in one way, and nothing on them that is a user's markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from darl_opensearch.web import markup
from darl_opensearch.web import page as web
from darl_opensearch.web.chart import Chart, Series

MEAN = "<b>a & b</b>\n\x1b[31m"
TEXT = "<b>a & b</b> \ufffd[31m"
EVIL = "</script><script>document.title='had'</script><img src=x onerror=\"document.title='had'\">\u2028\ud800"
CHART = Chart(
    "share", EVIL, [0.0, 86400.0, 172800.0], [Series(EVIL, [0.1, None, 0.3], [0.05, None, 0.2], [0.2, None, 0.4])],
    unit="percent", level=(0.05, "alpha"), marks=[(86400.0, EVIL)], flagged=([2], "drift"),
)  # fmt: skip


class Read(HTMLParser):
    """Tags with their attributes in order, and the texts between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts += [data] if data.strip() else []

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def policy(text):
    return next(one["content"] for one in Read(text).named("meta") if "http-equiv" in one)


def hashed(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_table_has_its_names_to_the_left():
    found = Read(markup.table(MEAN, (MEAN, "n", "p"), [("a", MEAN, "1"), ("b", "c", "2")], names=2))
    assert found.texts == [TEXT, TEXT, "n", "p", "a", TEXT, "1", "b", "c", "2"]
    named, scope = {"class": "name"}, {"scope": "col"}
    assert found.named("th") == [scope | named, scope | named, scope]
    assert found.named("td") == [named, named, {}] * 2


def test_a_page_is_whole():
    text = web.page(MEAN, ["<h1>x</h1>", markup.figure(MEAN, "<svg></svg>")], style=".mine { color: red; }\n")
    found = Read(text)
    assert [tag for tag, _ in found.tags] == [
        "html", "head", "meta", "meta", "meta", "link", "title", "style", "body", "a", "main", "h1", "figure",
        "figcaption", "svg",
    ]  # fmt: skip
    title, style, *rest = found.texts
    assert unescape(title) == TEXT and rest == ["Skip to the content", "x", TEXT]
    assert style.endswith("\n.mine { color: red; }\n")
    assert text.startswith("<!DOCTYPE html>\n") and text.endswith("</html>\n")


def test_only_the_pages_own_styles_and_scripts_are_admitted():
    text = web.page("t", [CHART.figure()], scripts=["let mine;"], charts=[CHART], style="p { color: red; }")
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(styles) == 2 and len(scripts) == 3 and scripts[-1] == "let mine;"
    wanted = (
        f"default-src 'none'; style-src {' '.join(map(hashed, styles))}; script-src {' '.join(map(hashed, scripts))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert policy(text) == wanted
    assert web.headers(text) == {"Content-Security-Policy": f"{wanted}; frame-ancestors 'none'"}
    with pytest.raises(ValueError):
        web.headers("<p>")


def test_a_page_without_scripts_admits_none():
    text = web.page("t", ["<p>"], svg=True, forms=True)
    assert policy(text) == (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'none'; img-src data:; base-uri 'none'; "
        "form-action 'self'"
    )
    assert "<script" not in text


def test_only_a_page_that_says_so_may_ask_its_server():
    assert "connect-src" not in policy(web.page("t", []))
    assert "; connect-src 'self'; " in policy(web.page("t", [], scripts=["let mine;"], fetches=True))


def test_data_cannot_end_its_element():
    values = {"page": [EVIL], "charts": {"share": CHART.to_json()}}
    text = web.page("t", [CHART.figure()], data=[EVIL], charts=[CHART])
    assert text.encode() and "document.title='had'</" not in text and "<img" not in text
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(held) == json.loads(json.dumps(values).replace("\\ud800", "?"))
    with pytest.raises(ValueError):
        web.page("t", [], data=float("nan"))


def test_a_chart_has_its_numbers_as_a_table():
    found = Read(CHART.figure())
    title = unescape(markup.escaped(EVIL))
    assert [text for text in found.texts if "Numbers" not in text and text.strip() != "alpha"] == [
        title, "Line: alpha.", f"1970-01-02 00:00: {title}", title, "time (UTC)", title, f"{title}, interval", "mark",
        "1970-01-01 00:00", "10.0 %", "5.0 % to 20.0 %", "1970-01-02 00:00", "–", "–", "1970-01-03 00:00", "30.0 %",
        "20.0 % to 40.0 %", "drift",
    ]  # fmt: skip
    (plot,) = [one for one in found.named("div") if one.get("data-chart")]
    assert plot["role"] == "img" and plot["aria-label"].startswith(title)


def test_names_stand_in_place_of_x_and_labels_before_it():
    series = [Series("a", [0.5, None])]
    named = Chart("n", "t", [0.0, 1.0], series, time=False, x_name="after", names=("start", EVIL))
    assert Read(named.figure()).texts[-6:] == ["after", "a", "start", "0.5", unescape(markup.escaped(EVIL)), "–"]
    marked = Chart("m", "t", [0.25, 1.5], series, time=False, x_name="x", labels=("query", ("dog", EVIL)))
    found = Read(marked.figure())
    assert found.texts[-9:] == ["query", "x", "a", "dog", "0.25", "0.5", unescape(markup.escaped(EVIL)), "1.5", "–"]
    assert named.to_json()["names"] == ["start", EVIL] and marked.to_json()["labels"] == ["dog", EVIL]
    for options in ({"names": ("one",)}, {"labels": ("query", ("one",))}):
        with pytest.raises(ValueError):
            Chart("c", "t", [1.0, 2.0], series, time=False, **options)


def test_a_chart_of_unequal_columns_is_refused():
    for series in ([], [Series("a", [1.0])], [Series("a", [1.0, 2.0])] * 7):
        with pytest.raises(ValueError):
            Chart("c", "t", [1.0, 2.0], series)


def test_what_is_vendored_is_what_was_published():
    table = (web.ASSETS / "vendor/README.md").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        assert hashlib.sha256((web.ASSETS / "vendor" / name).read_bytes()).hexdigest() in table
    assert "MIT License" in (web.ASSETS / "vendor/uPlot.LICENSE").read_text()


@pytest.mark.parametrize("name", [p.relative_to(web.ASSETS).as_posix() for p in web.ASSETS.rglob("*.[jc]s*")])
def test_an_asset_can_stand_in_a_page(name):
    text = (web.ASSETS / name).read_bytes().decode()
    assert "</script" not in text.lower() and "</style" not in text.lower() and "<!--" not in text and "\r" not in text


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read_in_both_themes(theme):
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for lines and borders of what is operated."""
    css = web.asset("page.css").partition("* { box-sizing")[0].split("@media")[theme]
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", css))

    def contrast(a, b):
        high, low = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    grounds = ("back", "soft", "bad-soft", "good-soft", "warn-soft")
    assert min(contrast(ink, ground) for ink in ("text", "link", "muted") for ground in grounds) >= 4.5
    assert min(contrast(f"series-{n}", "back") for n in range(1, 7)) >= 4.5
    assert min(contrast(ink, ground) for ink in ("edge", "bad", "good", "warn") for ground in ("back", "soft")) >= 3
