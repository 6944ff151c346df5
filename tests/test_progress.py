"""Progress: what a step says by a clock of the test, which steps are current, and the lines of a real training."""

from __future__ import annotations

import gzip
import json
import os
import re
import textwrap

import pytest

from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.progress import Steps, begin_step, count_up, format_seconds, listening
from tests.helpers.forked import Forked
from tests.helpers.training_project import write_base, write_project


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rate_and_time_left_are_those_of_the_step(clock):
    steps = Steps("reading", 1, clock=clock)
    assert steps.describe() == "reading …"
    clock.now += 95
    assert steps.describe() == "reading … 2 min so far"
    steps.report("stage full", 900, 1500)  # resumed: these were done before
    assert steps.describe() == "stage full: 900 of 1,500"
    clock.now += 30
    assert steps.describe() == "stage full: 900 of 1,500, 30 s so far"
    steps.report("stage full", 960, 1500)
    assert steps.describe() == "stage full: 960 of 1,500, 2.0 a second, about 4 min left"
    clock.now += 90  # the work hangs: the rate falls
    assert steps.describe() == "stage full: 960 of 1,500, 2.0 s each, about 18 min left"
    steps.report("selecting", 300, 0)  # of how many, nobody knows
    clock.now += 1
    steps.report("selecting", 21_300, 0)
    assert steps.describe() == "selecting: 21,300, 21,000 a second"


def test_a_step_within_is_told_with_the_main_one_until_that_goes_on(clock):
    steps = Steps("stage full", 30, clock=clock)
    with listening(steps):
        clock.now += 10
        steps.report("stage full", 5, 30)
        clock.now += 10
        counted = count_up("abcd", "encoding texts", 4)
        assert next(counted) + next(counted) + next(counted) == "abc"
        clock.now += 4
        assert steps.describe() == (
            "stage full: 5 of 30, 4.8 s each, about 2 min left; encoding texts: 2 of 4, 2.0 s each, about 4 s left"
        )
        steps.report("stage full", 6, 30)  # another one goes on beside
        assert steps.describe() == "stage full: 6 of 30, 4.0 s each, about 2 min left"
        assert list(counted) == ["d"]
        steps.report("calibrating", 0, 1)
        with begin_step("looking for near duplicates") as add:
            clock.now += 2
            add(500)
            assert steps.describe() == "calibrating: looking for near duplicates: 500, 250 a second"
        assert steps.describe() == "calibrating … 2 s so far"


def test_the_innermost_step_is_told_and_an_abandoned_one_is_not(clock):
    steps = Steps("checking", clock=clock)
    with listening(steps):
        for _ in count_up("ab", "outer", 2):
            for _ in count_up("ab", "inner", 2):
                assert steps.describe() == "checking: inner: 0 of 2"
                break
            assert steps.describe() in ("checking: outer: 0 of 2", "checking: outer: 1 of 2")
    assert steps.describe() == "checking …"


def test_nobody_listens():
    with begin_step("x") as add:
        add(1)
    assert list(count_up("ab", "x")) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reading_a_file_is_progress(tmp_path, clock, suffix):
    row = json.dumps({"text": os.urandom(500).hex()})
    path = tmp_path / f"items.jsonl{suffix}"
    with (gzip.open if suffix else open)(path, "wt") as file:
        file.writelines(f"{row}\n" for _ in range(3000))
    size = path.stat().st_size / 1e6
    steps = Steps("importing", clock=clock)
    with listening(steps):
        rows = read_jsonl(path)
        next(rows)
        clock.now += 2
        found = re.fullmatch(
            rf"importing: reading {path.name}: (\S+) of {size:.1f} MB, \S+ MB a second, about .* left", steps.describe()
        )
        assert found and 0 <= float(found[1]) <= size
        for _ in rows:
            pass
        assert steps.describe() == "importing … 2 s so far"  # it is closed


def test_a_pipe_has_no_length(tmp_path):
    read, write = os.pipe()
    os.write(write, b'{"a": 1}\n{"a": 2}\n')
    os.close(write)
    steps = Steps("importing", clock=Clock())
    with listening(steps):
        rows = read_jsonl(f"/dev/fd/{read}")
        assert next(rows)[1] == {"a": 1}
        assert steps.describe() == "importing …"
        rows.close()
    os.close(read)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_times(seconds, text):
    assert format_seconds(seconds) == text


def test_a_training_without_a_terminal_prints_lines(tmp_path):
    """At intervals of the test; stdout holds nothing but the result."""
    base = write_base(tmp_path / "base", "bert")
    config = write_project(tmp_path / "data", base, stages={"full_epochs": 3, "patience": 100})
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import sys
        from darl_opensearch.cli import main, output
        output.INTERVAL = 0.01
        sys.argv = ["darl", "train", {str(config)!r}, "--run", {str(tmp_path / "run")!r}, "--json"]
        main()
    """)
    )
    ended = Forked([program]).wait(240)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["run"] == str(tmp_path / "run")
    lines = ended.err.splitlines()
    left = r", [\d,.]+ (a second|s each), about \d+ s left"
    assert any(re.fullmatch(rf"stage full: \d+ of \d+{left}(; .*)?", line) for line in lines), ended.err
    for what in ("loading the base model", "measuring the base model", "stage head", "fitting the OOD detector"):
        assert any(line.startswith(what) for line in lines), (what, ended.err)
    assert any("encoding texts: " in line for line in lines)
