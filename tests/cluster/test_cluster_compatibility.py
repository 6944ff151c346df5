"""Versions of OpenSearch: one module compares them, and the recorded results cover what the page says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from darl_opensearch.cluster.compatibility import REQUIRED, find_version_error, supports
from darl_opensearch.connect import Identity
from darl_opensearch.node.manifest import VERSIONS
from tests.opensearch.traps import TRAPS, read_results, tabulate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("feature", REQUIRED)
def test_a_feature_begins_with_its_version(feature):
    major, minor = REQUIRED[feature].since
    assert supports((major, minor), feature) and supports((major, minor + 1), feature) and supports((9, 0), feature)
    assert not supports((major, minor - 1), feature) and not supports((1, 99), feature)


def test_the_error_names_the_version_and_the_way_out():
    found = {
        (number, mode): str(find_version_error(Identity(number, ""), mode, "u") or "")
        for number in ("2.18.0", "2.19.1", "3.0.0") for mode in ("local", "connector")
    }  # fmt: skip
    assert found == {
        ("2.18.0", "local"): "u: this is OpenSearch 2.18.0, but --mode local requires 3.0. Upgrade it.",
        ("2.18.0", "connector"): "u: this is OpenSearch 2.18.0, but --mode connector requires 2.19. Upgrade it.",
        ("2.19.1", "local"): "u: this is OpenSearch 2.19.1, but --mode local requires 3.0. Use --mode connector.",
        ("2.19.1", "connector"): "",
        ("3.0.0", "local"): "",
        ("3.0.0", "connector"): "",
    }


def is_version(node):
    """Whether an expression is ``something.version`` or a pair of numbers."""
    pair = isinstance(node, ast.Tuple) and len(node.elts) == 2
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "version"
        or (pair and all(isinstance(part, ast.Constant) and isinstance(part.value, int) for part in node.elts))
    )


def test_no_other_module_compares_versions():
    found = set()
    for path in (ROOT / "darl_opensearch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and any(
                isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops
            ):
                if any(map(is_version, (node.left, *node.comparators))):
                    found.add(f"{path.name}: {ast.unparse(node)}")
    assert found == set()


def test_every_row_was_recorded_on_every_version():
    results = read_results()
    assert set(results) == set(VERSIONS)
    for trap in TRAPS:
        for mode, outcomes in tabulate(trap, results).items():
            possible = [v for v in VERSIONS if mode != "local" or supports(Identity(v, "").version, "local")]
            assert outcomes == {version: {"passed"} for version in possible}, (trap.what, mode)


def test_the_tests_of_every_row_exist():
    for test in (test for trap in TRAPS for test in trap.tests):
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / f"tests/opensearch/test_{file}.py").read_text(encoding="utf-8"), test
