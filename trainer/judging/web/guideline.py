"""The guideline as HTML that can do nothing: no scripts, no pictures, no markup of its own."""

from __future__ import annotations

from markdown_it import MarkdownIt


def render_guideline(markdown: str) -> str:
    """Render Markdown.

    HTML in it is shown as text, ``javascript:`` and the like are no links (markdown-it's safe preset), pictures are
    not fetched, and links open elsewhere without saying from where.
    """
    parser = MarkdownIt("js-default").disable("image")
    tokens = parser.parse(markdown)
    for token in tokens:
        for inner in token.children or ():
            if inner.type == "link_open":
                inner.attrSet("rel", "noopener noreferrer")
                inner.attrSet("target", "_blank")
    return str(parser.renderer.render(tokens, parser.options, {}))
