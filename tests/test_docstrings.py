"""What ``:param`` lines may say: an argument whose name and type say it all needs none.

pydoclint asks for all arguments or none, so its findings on left-out ones are passed over here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = ("DOC101", "DOC201", "DOC402")  # fewer arguments than the signature; no return or yield section
STALE = re.compile(r"Arguments in the docstring but not in the function signature: (\[[^\]]+\])")
FILLER = {"the", "a", "an", "of", "its", "this", "that", "to", "for", "in", "as", "one", "given", "value"}
ENTRY = re.compile(r"^\s*:param\s+\*{0,2}(\w+):[ \t]*(.*)$", re.MULTILINE)


def words(text: str) -> set[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return {word.rstrip("s") for word in re.findall(r"[a-z]+|\d+", spaced.lower())}


def documented(path: Path) -> Iterator[tuple[str, str, str]]:
    """Every ``:param`` line of a file: where, the argument, what is said of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for name, said in ENTRY.findall(ast.get_docstring(node) or ""):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, said


@pytest.mark.parametrize("package", ["darl_opensearch", "trainer"])
def test_a_param_line_says_more_than_the_name(package):
    repeated = [
        f"{where}: {name}: {said}" for path in sorted((ROOT / package).rglob("*.py"))
        for where, name, said in documented(path) if words(said) <= words(name) | FILLER
    ]  # fmt: skip
    assert repeated == []


def test_documented_arguments_are_in_the_signature_and_in_its_order():
    command = [Path(sys.executable).with_name("pydoclint"), "--quiet", "darl_opensearch", "trainer"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    findings = [line for line in (ran.stdout + ran.stderr).splitlines() if re.search(r"\bDOC\d+", line)]
    wrong = [
        line for line in findings
        if not any(code in line for code in LEFT_OUT) and ("DOC103" not in line or STALE.search(line))
    ]  # fmt: skip
    assert ran.returncode in (0, 1)
    assert wrong == []
