"""The public Python API: everything in it can be imported, is typed and documented, and loads late."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import opensearchpy
import pytest
import tokenizers

import darl_opensearch
from darl_opensearch.ood import RankedRequest

ROOT = Path(__file__).parent.parent
CLASSES = [name for name in darl_opensearch.__all__ if name != "__version__"]
# Imported for type checkers only, so that loading a class does not load these.
TYPES = {"OpenSearch": opensearchpy.OpenSearch, "Tokenizer": tokenizers.Tokenizer, "RankedRequest": RankedRequest}


def methods(cls: type) -> dict[str, object]:
    """Public methods and properties of a class, and its constructor."""
    own = {name: value for name, value in vars(cls).items() if not name.startswith("_") or name == "__init__"}
    own = {name: getattr(value, "func", getattr(value, "fget", value)) for name, value in own.items()}
    return {name: inspect.unwrap(getattr(value, "__func__", value)) for name, value in own.items() if callable(value)}


@pytest.mark.parametrize("name", darl_opensearch.__all__)
def test_everything_public_can_be_imported(name):
    assert getattr(darl_opensearch, name) is not None


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'Rerankers'"):
        darl_opensearch.Rerankers  # noqa: B018


@pytest.mark.parametrize("name", CLASSES)
def test_everything_public_is_typed(name):
    cls = getattr(darl_opensearch, name)
    for method, function in methods(cls).items():
        hints = typing.get_type_hints(function, localns=TYPES)
        parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        assert {*parameters, "return"} <= set(hints), f"{name}.{method}"


@pytest.mark.parametrize("name", CLASSES)
def test_everything_public_is_documented(name):
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    cls = getattr(darl_opensearch, name)
    assert f"\n## {name}\n" in page
    for method in methods(cls).keys() - {"__init__"}:
        assert inspect.getdoc(getattr(cls, method))
        assert f"\n### {name}.{method}\n" in page or f"\n| `{method}` |" in page


def test_importing_the_package_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import darl_opensearch; print(*sys.modules.keys() - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in ran.stdout.split()}
    assert "darl_opensearch" in loaded and not loaded & {"numpy", "onnxruntime", "opensearchpy", "tokenizers"}


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_snippet_runs_and_prints_what_the_page_shows(page, tiny, tmp_path, monkeypatch, capsys):
    """The pages show the insurance sample's bundle; the tiny one prints other numbers in the same format."""
    text = (ROOT / page).read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, flags=re.DOTALL).groups()
    (tmp_path / "bundle").symlink_to(tiny.path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})
    shape = [
        sorted(re.sub(r"\d", "0", line) for line in lines.splitlines()) for lines in (capsys.readouterr().out, shown)
    ]
    assert shape[0] == shape[1]
