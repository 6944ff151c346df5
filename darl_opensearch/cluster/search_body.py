"""The body of a search through a pipeline: what a client may ask for, and where the query's text goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from darl_opensearch.config_files import render_body
from darl_opensearch.errors import InputError
from darl_opensearch.text import MAX_QUERY_CHARS

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def check_query(query: str) -> None:
    """Refuse an unusable query.

    :raises InputError: if it is empty, far too long, or not valid Unicode.
    """
    if not query.strip():
        raise InputError("the query is empty", todo="enter the text to search for")
    if len(query) > MAX_QUERY_CHARS:
        raise InputError(f"the query has {len(query):,} characters, more than {MAX_QUERY_CHARS:,}", todo="shorten it")
    try:
        query.encode("utf-8")
    except UnicodeEncodeError as err:
        raise InputError("the query is not valid Unicode", todo="write it in UTF-8") from err


def check_page(from_: int, size: int) -> None:
    """Refuse a page that no search has.

    :raises InputError: if it has too few or too many hits, or begins before the first.
    """
    if not 1 <= size <= 10_000:
        raise InputError(f"size {size} is outside 1..10000", todo="ask for fewer hits")
    if from_ < 0:
        raise InputError(f"from_ {from_} is negative", todo="use 0 for the first page")


def make_body(query: str, size: int, body: Mapping[str, Any] | None, from_: int = 0) -> dict[str, Any]:
    """Make the body of a search.

    :param body: the caller's own, or None for a match on ``darl_text``.
    :raises InputError: if the pipeline could not rerank its hits, or cut pages from them.
    """
    check_query(query)
    place = {"size": size} | ({"from": from_} if from_ else {})
    if body is None:
        return render_body("search.json", size=size, query=query) | place
    if "_source" in body:
        raise InputError("the search body restricts _source", todo="omit it: the pipeline reads darl_text")
    if body.get("from"):
        raise InputError("the search body has from", todo="pass from_ instead: pages are cut after reranking")
    # Without the total, the rerank processor fails and the hits stay in first-stage order.
    return {key: value for key, value in body.items() if key != "track_total_hits"} | place


def is_hybrid(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for a hybrid query."""
    return "hybrid" in (body.get("query") or ())  # nowhere else: OpenSearch takes it as the whole query only


def replace_text(body: dict[str, Any], path: str, text: str, *, where: str) -> dict[str, Any]:
    """Copy a body with another text at a path such as ``query.bool.must[0].match.title.query``.

    :raises InputError: if there is no text.
    """
    keys: list[str | int] = [name or int(number) for name, number in _STEP.findall(path)]

    def put(node: Any, keys: Sequence[str | int]) -> Any:
        if not keys:
            if not isinstance(node, str):
                raise TypeError
            return text
        copy: Any = dict(node) if isinstance(keys[0], str) else list(node)
        copy[keys[0]] = put(copy[keys[0]], keys[1:])
        return copy

    try:
        return dict(put(body, keys))
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise InputError(
            f"the search body has no text at {path}, where the pipeline reads the query",
            where=where,
            todo="add it, or register the pipeline without --query-path",
        ) from err
