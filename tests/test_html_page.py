"""Pages in HTML: whole, styled in one way, and nothing on them that is a user's markup."""

from __future__ import annotations

from html import unescape
from html.parser import HTMLParser

from darl_opensearch import html_page

MEAN = "<b>a & b</b>\n\x1b[31m"
TEXT = "<b>a & b</b> \ufffd[31m"


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


def test_a_table_has_its_names_to_the_left():
    found = Read(html_page.table(MEAN, (MEAN, "n", "p"), [("a", MEAN, "1"), ("b", "c", "2")], names=2))
    assert found.texts == [TEXT, TEXT, "n", "p", "a", TEXT, "1", "b", "c", "2"]
    named, scope = {"class": "name"}, {"scope": "col"}
    assert [at for tag, at in found.tags if tag == "th"] == [scope | named, scope | named, scope]
    assert [at for tag, at in found.tags if tag == "td"] == [named, named, {}] * 2


def test_a_page_is_whole():
    text = html_page.page(MEAN, ["<h1>x</h1>", html_page.figure(MEAN, "<svg></svg>")], style=".mine { color: red; }\n")
    found = Read(text)
    assert [tag for tag, _ in found.tags] == [
        "html", "head", "meta", "meta", "title", "style", "body", "h1", "figure", "figcaption", "svg"
    ]  # fmt: skip
    title, style, *rest = found.texts
    assert unescape(title) == TEXT and rest == ["x", TEXT]
    assert style.endswith("svg { max-width: 100%; height: auto; }\n.mine { color: red; }\n")
    assert text.startswith("<!DOCTYPE html>\n") and text.endswith("</html>\n")
