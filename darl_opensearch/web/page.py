"""One HTML file that needs nothing else: styles, scripts, charts and their data are in it.

A Content-Security-Policy in the file admits exactly its own styles and scripts, by their hashes. So markup that a text
brings along never runs, even if it were not escaped, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from darl_opensearch.web.chart import Chart
from darl_opensearch.web.markup import escaped

ASSETS = Path(__file__).parent / "assets"
DATA_ID = "data"  # of the element with the page's data, which scripts parse as JSON
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


def page(
    title: str,
    body: Iterable[str],
    *,
    style: str = "",
    scripts: Sequence[str] = (),
    data: Any = None,
    charts: Sequence[Chart] = (),
    svg: bool = False,
    forms: bool = False,
    fetches: bool = False,
    images: str = "",
) -> str:
    """Put a page together.

    :param title: of the window, as text.
    :param body: the content of ``<main>``, as HTML, a line or more each.
    :param style: CSS beside the common one.
    :param scripts: classic scripts, run in this order when the body is there; :func:`asset` reads those of here.
    :param data: JSON values for the scripts, in the element :data:`DATA_ID`.
    :param charts: charts on the page; the body holds the ``figure()`` of each.
    :param svg: the body has SVG with style attributes, as matplotlib writes it.
    :param forms: the page may send forms to the server that it came from.
    :param fetches: its scripts may ask that server.
    :param images: where its images may come from, as a source of a Content-Security-Policy.
    :raises ValueError: if the data has a number that is not finite.
    """
    styles, programs = [asset("page.css") + style], list(scripts)
    if charts:
        styles.insert(0, asset("vendor/uPlot.min.css"))
        programs[:0] = [asset("vendor/uPlot.iife.min.js"), asset("charts.js")]
    parts: dict[str, Any] = {} if data is None else {"page": data}
    if charts:
        parts["charts"] = {chart.key: chart.to_json() for chart in charts}
    policy = _policy(styles, programs, svg=svg, forms=forms, fetches=fetches, images=images)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escaped(title)}</title>",
        *(f"<style>{text}</style>" for text in styles),
        "</head>",
        "<body>",
        '<a class="skip" href="#main">Skip to the content</a>',
        '<main id="main" tabindex="-1">',
        *body,
        "</main>",
    ]
    if parts:
        lines.append(f'<script type="application/json" id="{DATA_ID}">{embedded_json(parts)}</script>')
    lines += [f"<script>{text}</script>" for text in programs]
    return "\n".join([*lines, "</body>", "</html>", ""])


def headers(html: str) -> dict[str, str]:
    """Return the headers to serve a page with: its own policy, which also forbids frames.

    :param html: of :func:`page`.
    """
    found = _POLICY.search(html)
    if found is None:
        raise ValueError("not a page of this module")
    return {"Content-Security-Policy": f"{found[1]}; frame-ancestors 'none'"}


@cache
def asset(name: str) -> str:
    """Read a file of ``assets/``."""
    return (ASSETS / name).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """Serialise to JSON that may stand inside ``<script>``: no character of it can end the element.

    :raises ValueError: if a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written to a file


def _policy(
    styles: Sequence[str], scripts: Sequence[str], *, svg: bool, forms: bool, fetches: bool, images: str
) -> str:
    """Write the policy; a hash and 'unsafe-inline' exclude each other, so a page with drawn SVG has the latter."""
    style = "'unsafe-inline'" if svg else " ".join(map(_hashed, styles))
    script = " ".join(map(_hashed, scripts)) or "'none'"
    form = "'self'" if forms else "'none'"
    connect = "connect-src 'self'; " if fetches else ""
    pictures = f"data: {images}".rstrip()
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; {connect}img-src {pictures}; base-uri 'none'; "
        f"form-action {form}"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
