"""Runs the node tests on a version of OpenSearch and writes their outcomes, from which docs/opensearch.md is generated.

``python -m tests.opensearch.record 2.19.1`` runs the tests of every row; further words name files, whose outcomes
alone are then replaced. It takes some minutes for each version. Exit code 1 if a test failed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.opensearch.traps import NO_MODE, RESULTS, TRAPS, files_of_traps

ORDER = ("failed", "skipped", "passed")  # of several tests of a name, the first of these that occurs counts


class Recorder:
    """A plugin of pytest that collects outcomes by test and mode."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}
        self._modes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from tests.opensearch.conftest import mode_of

        self._modes = {item.nodeid: mode_of(item) or NO_MODE for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        file, _, function = report.nodeid.partition("::")
        name = f"{Path(file).stem.removeprefix('test_')}::{function.partition('[')[0]}"
        modes = self.outcomes.setdefault(name, {})
        mode = self._modes[report.nodeid]
        modes[mode] = min(modes.get(mode, "passed"), report.outcome, key=ORDER.index)


def main(version: str, *files: str) -> int:
    """Run the tests and write ``results/VERSION.json``; return pytest's exit code."""
    os.environ |= {"DARL_NODE_VERSION": version, "DARL_REQUIRE_OPENSEARCH": "1"}
    recorder = Recorder()
    code = pytest.main(["-q", *(files or map(str, files_of_traps()))], plugins=[recorder])
    wanted = {test for trap in TRAPS for test in trap.tests}
    path = RESULTS / f"{version}.json"
    tests = json.loads(path.read_text(encoding="utf-8"))["tests"] if files and path.exists() else {}
    tests |= {test: modes for test, modes in recorder.outcomes.items() if test in wanted}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"version": version, "tests": dict(sorted(tests.items()))}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
