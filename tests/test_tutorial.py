"""The tutorial runs as it is written, and shows what it prints.

The model is tiny and random here, so that this takes seconds: other numbers and verdicts, in outputs of the same shape.
``python -m docs.tutorial`` runs the page with its own model and writes its outputs and ``docs/tutorial-log.txt``.
"""

from __future__ import annotations

import re
import shlex

import pytest

from docs import tutorial
from tests.helpers.commands import run_main
from tests.helpers.files import read_rows
from tests.helpers.trained import SAMPLE

TEXT = tutorial.PAGE.read_text(encoding="utf-8")
BLOCKS = tutorial.read_blocks(TEXT)


def test_the_log_is_that_of_the_page():
    log = tutorial.LOG.read_text(encoding="utf-8")
    assert [block.language for block in BLOCKS] and "pip install" not in "".join(block.code for block in BLOCKS)
    for block in BLOCKS:
        assert block.code in log and (block.shown or "") in log, f"run python -m docs.tutorial\n{block.code}"


@pytest.fixture(scope="module")
def texts():
    """Queries and names of items: they stand in outputs, and other ones with another model."""
    rows = [row for path in SAMPLE.glob("*.jsonl") for row in read_rows(path)]
    found = {row.get("query") or row.get("name") for row in rows} - {None}
    return sorted(found, key=len, reverse=True)


def shape(output, texts):
    """Each line without its numbers, and without what a model decides: a text that it ranks, a verdict."""
    lines = []
    for line in output.splitlines():
        if line.startswith("window (UTC)"):
            break  # what follows are the verdicts of the tests
        start = line.strip().partition("…")[0]
        if known := next((text for text in texts if text in line or len(start) > 20 and text.startswith(start)), None):
            line = line.replace(known, "…")
        line = re.sub(r"(expected [\d.]+ %).*", r"\1", line)
        lines.append(re.sub(r"\s+", " ", re.sub(r"[+-]?[\d,]*\.?\d+", "0", line)))
    return lines


def test_the_tutorial_runs_and_prints_what_it_shows(checkpoint, tmp_path, monkeypatch, texts):
    def run(language, code, folder):
        """Commands of ``darl`` run in this process, where torch is loaded already."""
        monkeypatch.chdir(folder)
        calls = [line for line in code.splitlines() if line.startswith("darl ")] if language == "sh" else []
        rest = "\n".join(line for line in code.splitlines() if line not in calls)
        printed = tutorial.run_code(language, rest, folder) if rest else ""
        for call in calls:
            said = run_main(*shlex.split(call)[1:])
            assert said.code == 0, said.err
            printed += said.out
        return printed

    name = 'name = "insurance"\n'
    outputs = tutorial.run_page(TEXT, tmp_path, replaced={name: f'{name}base = "{checkpoint}"\n'}, run=run)
    assert len(outputs) == len(BLOCKS) > 8
    for block, output in outputs:
        if block.shown is not None:
            assert shape(output, texts) == shape(block.shown, texts), block.code
