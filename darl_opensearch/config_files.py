"""What is applied to a cluster lies in ``plugin_config/`` and is rendered here, and nowhere else.

Every file is JSON that an operator can read as it is. A value that is exactly ``"{{name}}"`` is replaced by
a value of any type; inside a longer string the text is put in. ML Commons' own placeholders
(``${parameters.query}``, ``${credential.api_key}``, ``${input_map.text_docs}``) pass through untouched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from darl_opensearch.errors import DarlError
from darl_opensearch.resources import plugin_config

_PLACEHOLDER = re.compile(r"\{\{([a-z][a-z0-9_]*)\}\}")


class _Omit(Enum):
    """A value that leaves its key or its list element out."""

    OMIT = "omit"


OMIT = _Omit.OMIT


def render_body(name: str, /, **values: Any) -> dict[str, Any]:
    """Read a file of ``plugin_config/`` and fill its placeholders.

    :param name: file name, such as ``connector.json``.
    :param **values: one for each placeholder of the file, no more and no less; ``OMIT`` drops the key.
    :raises DarlError: when the file is missing or broken, or a placeholder and a value do not match.
    """
    data = _parse(name, json.loads)
    if not isinstance(data, dict):
        raise _broken(name, "not a JSON object")
    return dict(_render(name, data, values))


def render_lines(name: str, /, **values: Any) -> list[dict[str, Any]]:
    """Read a file of ``plugin_config/`` that holds one JSON object a line, and fill its placeholders.

    :param name: file name, such as ``dashboards.ndjson``.
    :param **values: as for :func:`render_body`, for the placeholders of all lines together.
    :raises DarlError: as for :func:`render_body`.
    """
    data = _parse(name, lambda text: [json.loads(line) for line in text.splitlines()])
    if not all(isinstance(line, dict) for line in data):
        raise _broken(name, "a line is not a JSON object")
    return [dict(line) for line in _render(name, data, values)]


def _parse(name: str, parse: Callable[[str], Any]) -> Any:
    path = plugin_config() / name
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DarlError("the file is missing", where=str(path), todo="reinstall the package") from err
    except ValueError as err:
        raise _broken(name, f"not JSON ({err})") from err


def _broken(name: str, what: str) -> DarlError:
    return DarlError(what, where=str(plugin_config() / name), todo="fix it, or reinstall the package")


def _render(name: str, data: Any, values: Mapping[str, Any]) -> Any:
    where = str(plugin_config() / name)
    wanted = placeholders(data)
    if missing := sorted(wanted - values.keys()):
        raise DarlError(f"no value for {{{{{missing[0]}}}}}", where=where, todo="remove the placeholder")
    if unused := sorted(values.keys() - wanted):
        raise DarlError(f"the placeholder {{{{{unused[0]}}}}} is gone", where=where, todo="put it back")
    return _fill(data, values)


def placeholders(node: Any) -> set[str]:
    """List the placeholders of a parsed file."""
    if isinstance(node, str):
        return set(_PLACEHOLDER.findall(node))
    if isinstance(node, dict):
        return set().union(*(placeholders(part) for pair in node.items() for part in pair), set())
    if isinstance(node, list):
        return set().union(*map(placeholders, node), set())
    return set()


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, str):
        whole = _PLACEHOLDER.fullmatch(node)
        return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda m: str(values[m[1]]), node)
    if isinstance(node, dict):
        filled = ((_fill(key, values), _fill(value, values)) for key, value in node.items())
        return {key: value for key, value in filled if value is not OMIT and key is not OMIT}
    if isinstance(node, list):
        return [value for value in (_fill(part, values) for part in node) if value is not OMIT]
    return node
