"""The documentation site: ``make docs`` builds it with Sphinx from the pages as they are.

The source folder is the repository, so that links between pages stay what they are on a code host. The navigation is
the list of pages in ``docs/README.md``: nothing is listed twice.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parent.parent
PAPER = re.compile(r"\barXiv:(\d{4}\.\d{4,5})\b")

project = "DaRL for OpenSearch"
copyright = "DaRL for OpenSearch contributors"
release = re.search(r'"(.+)"', (ROOT / "darl_opensearch/version.py").read_text(encoding="utf-8"))[1]

root_doc = "docs/README"
include_patterns = [
    "*.md", "docs/**.md", "examples/*/*.md", "benchmarks/*/*.md", "plugin_config/README.md", "docker/README.md",
]  # fmt: skip
exclude_patterns = [".*", "build"]  # the folders are not walked through
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # JSON and TOML with an ellipsis

html_theme = "furo"
html_title = project
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def contents(page: Path) -> list[tuple[str, list[str]]]:
    """Read the pages that a page lists.

    :param page: a Markdown file.
    :return: each heading with the pages that are the first link of a list item or table row below it, relative to the
        repository and without suffix.
    """
    found: list[tuple[str, list[str]]] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#+ (.+)", line):
            found.append((heading[1], []))
        elif link := re.match(r"(?:- |\| *)(?:\d+ *\| *)?\[[^]]+\]\(([^)#]+)\.md\)", line):
            there = os.path.relpath((page.parent / link[1]).resolve(), ROOT)
            found[-1][1].append(Path(there).as_posix())
    return [(heading, pages) for heading, pages in found if pages]


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the navigation that a list of pages stands for."""
    if docname not in (root_doc, "docs/decisions/README"):
        return
    for heading, pages in contents(ROOT / f"{docname}.md"):
        caption = f":caption: {heading}\n" if docname == root_doc else ""
        entries = "\n".join(f"/{page}" for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n{caption}\n{entries}\n```\n"


def show_formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers show without a script."""
    from docutils.nodes import SkipNode, math_block
    from latex2mathml.converter import convert

    if isinstance(node, math_block):
        translator.body.append(f'<div style="overflow-x: auto">{convert(node.astext(), display="block")}</div>\n')
    else:
        translator.body.append(convert(node.astext()))
    raise SkipNode


def link_papers(app: Sphinx, doctree: nodes.document) -> None:
    """Link ``arXiv:2109.01903`` to its page, except in code and in what is a link already."""
    from docutils import nodes

    for text in list(doctree.findall(nodes.Text)):
        pieces = PAPER.split(text)
        if len(pieces) == 1 or isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.reference):
            continue
        text.parent.replace(text, [
            nodes.reference("", f"arXiv:{piece}", refuri=f"https://arxiv.org/abs/{piece}") if place % 2
            else nodes.Text(piece)
            for place, piece in enumerate(pieces)
        ])  # fmt: skip


def redirect(app: Sphinx, error: Exception | None) -> None:
    """Write ``index.html``: the site begins at the list of pages."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>{project}</title>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", link_papers)
    app.connect("build-finished", redirect)
    app.add_html_math_renderer("mathml", (show_formula, None), (show_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
