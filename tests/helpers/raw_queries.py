"""Queries that a client of any kind sends through a pipeline as they are: which of them are reranked.

docs/opensearch.md shows the table, and tests/opensearch/test_opensearch_rank.py holds each row to it on a node.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RawQuery:
    """A row of the table.

    :param what: the kind of query, in Markdown.
    :param queries: some of the kind.
    :param not_reranked: pipelines through which they are not: suffixes of the name that the tests give them.
    """

    what: str
    queries: tuple[str, ...]
    not_reranked: tuple[str, ...] = ()


RAW_QUERIES = (
    RawQuery("words of any language, numbers, emojis", ("bike cover", "été 中文 😀", "123", "null")),
    RawQuery("with `\"`, `\\` or a line break", ('say "stolen"', "back\\slash", "line\nbreak"), ("-local",)),
    RawQuery(
        'that is a JSON object or array: `["foo"]`', ('["foo"]', '  ["foo"]', '{"a":1}'),
        ("-local", "-connector", "-connector-plain"),
    ),
    RawQuery("that only resembles one: `{a:1}`, `[1,2`", ("{a:1}", "[1,2")),
    RawQuery(
        "with `${parameters.query}` or another parameter of the connector",
        ("${parameters.query}", "cover ${parameters.documents}"), ("-connector", "-connector-plain"),
    ),
    RawQuery("with `${parameters.x}`, if the connector has no `x`", ("${parameters.x}", "cover ${parameters.x} bike")),
    RawQuery("with `${input_map.query_text}` or `${input_map.text_docs}`", ("${input_map.query_text}",), ("-local",)),
    RawQuery("with `${ml_inference.parameters}`", ("${ml_inference.parameters}",), ("-connector",)),
)  # fmt: skip
