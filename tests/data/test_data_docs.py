"""docs/data.md names every format, file, field and kind of leak that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.data.importers import IMPORTERS
from trainer.data.leakage import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(IMPORTERS))
def test_every_format_is_in_the_page(name):
    entry = IMPORTERS[name]
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert entry.summary.rstrip(".") in row and entry.cite in re.sub(r"<(https\S+)>", r"\1", row)
    for key, param in entry.params.items():
        assert f"`{key}` = " in row and param.field.help in row
    for source in entry.make.sources:
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` | `{source.name}`"))
        assert source.help in line and all(f"`{field}`" in line for field in source.fields)
        assert ("(optional)" in line) is not source.required
        assert source.usual and all(f"`{usual}.*`" in line for usual in source.usual)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_leak_is_in_the_page(kind):
    assert f"| `{kind}` | {KINDS[kind]} |" in PAGE
