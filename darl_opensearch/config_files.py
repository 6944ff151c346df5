"""What is applied to a cluster lies in ``plugin_config/`` and is rendered here, and nowhere else.

Every file is JSON that an operator can read as it is. A value that is exactly ``"{{name}}"`` is replaced by
a value of any type; inside a longer string the text is put in. ML Commons' own placeholders
(``${parameters.query}``, ``${credential.api_key}``, ``${input_map.text_docs}``) pass through untouched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    path = plugin_config() / name
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DarlError("the file is missing", where=str(path), todo="reinstall the package") from err
    except ValueError as err:
        raise DarlError(f"not JSON ({err})", where=str(path), todo="fix it, or reinstall the package") from err
    if not isinstance(data, dict):
        raise DarlError("not a JSON object", where=str(path), todo="fix it, or reinstall the package")
    wanted = placeholders(data)
    if missing := sorted(wanted - values.keys()):
        raise DarlError(f"no value for {{{{{missing[0]}}}}}", where=str(path), todo="remove the placeholder")
    if unused := sorted(values.keys() - wanted):
        raise DarlError(f"the placeholder {{{{{unused[0]}}}}} is gone", where=str(path), todo="put it back")
    result = _fill(data, values)
    return dict(result)


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
