"""Passing any text through ML Commons unharmed.

ML Commons pastes texts into JSON by plain substitution. What breaks depends on the route, and no search reports an
error: with ``ignore_failure`` the hits just keep their first-stage order.

========== =================================== ===================================================
route      what breaks it                      what is sent instead
========== =================================== ===================================================
in cluster quotes, backslashes, control        the text escaped as in a JSON string: the model
           characters, ``${input_map.…}``      sees it unchanged
connector  a text that is JSON itself, such as a zero width space before it, which BERT's
           ``["foo"]``                         normaliser drops again
connector  ``${parameters.…}`` of a parameter  a zero width space between ``$`` and ``{``
           that the connector has,
           ``${ml_inference.parameters}``
========== =================================== ===================================================
"""

from __future__ import annotations

import json

ZERO_WIDTH_SPACE = "\u200b"


def guard_for_local(text: str) -> str:
    """Escape a query for ``ext.ml_inference.query_text``, so that the in-cluster model sees it unchanged."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("$", "\\u0024")


def guard_for_connector(text: str) -> str:
    """Guard a query or id for the connector with a zero width space where ML Commons would read it as markup."""
    text = guard_item(text)
    return ZERO_WIDTH_SPACE + text if text.lstrip()[:1] in ("[", "{") else text


def guard_for_query_path(text: str) -> str:
    r"""Guard a query that the first stage searches for too, for the in-cluster pipeline.

    Escapes such as ``\n`` would become words there, so blanks and control characters become single spaces.

    :param text: the query.
    :return: a text with the same words.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return guard_item(plain).replace("\\", "\\\\").replace('"', '\\"')


def guard_item(text: str) -> str:
    """Guard an item's text with a zero width space inside each ``${``, which would break every search that hits it."""
    return text.replace("${", "$" + ZERO_WIDTH_SPACE + "{")
