"""The guideline as inert HTML: no scripts, images or raw markup."""

from __future__ import annotations

from markdown_it import MarkdownIt


def render_guideline(markdown: str) -> str:
    """Render Markdown.

    HTML in it is shown as text, ``javascript:`` and similar are not links (markdown-it's safe preset), images are not
    fetched, and links open in another tab without a referrer.
    """
    parser = MarkdownIt("js-default").disable("image")
    tokens = parser.parse(markdown)
    for token in tokens:
        for inner in token.children or ():
            if inner.type == "link_open":
                inner.attrSet("rel", "noopener noreferrer")
                inner.attrSet("target", "_blank")
    return str(parser.renderer.render(tokens, parser.options, {}))
