"""Tests use no private name, import what they need the plain way, and no public name has two owners."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("darl_opensearch", "trainer", "benchmarks", "docs")
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each ``from module import _name``, ``module._name`` and ``setattr(module, "_name", …)``."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            imported |= {alias.asname or alias.name for alias in node.names}
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Import):
            imported |= {alias.asname for alias in node.names if alias.asname and alias.name.split(".")[0] in OURS}

    def is_ours(node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and (node.id in imported or node.id in OURS)

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and is_ours(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr")):
            match node.args:
                case [target, ast.Constant(value=str(name)), *_] if is_private(name) and is_ours(target):
                    yield node.lineno, name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_use_public_names(path):
    assert not list(private_names(parse(path)))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_changes_where_modules_are_found(path):
    assert "sys." + "path" not in path.read_text(encoding="utf-8")


def public_definitions(path: Path) -> Iterator[str]:
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            yield node.name


def test_no_public_name_has_two_owners():
    """One word for one thing: ``cli`` alone stands in every command's module, for click to find it there."""
    owners: dict[str, list[str]] = {}
    for package in ("darl_opensearch", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name in public_definitions(path):
                if not (name == "cli" and path.is_relative_to(ROOT / "darl_opensearch/cli")):
                    owners.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}
