"""Processes that start from one that has loaded torch: killed and read as any other, and there at once.

Loading torch and transformers takes ten seconds a process; a server that has done so once forks the others.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import site
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.commands import Said

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.loaded"])


class Forked:
    """A process that runs ``python`` with these words: ``-m module …`` or ``script.py …``."""

    def __init__(self, words: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = Path(self._folder.name) / "out", Path(self._folder.name) / "err"
        environment = dict(os.environ if environment is None else environment)
        self._process = _CONTEXT.Process(
            target=_run, args=([str(word) for word in words], environment, str(self._out), str(self._err))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self._process.pid or 0)

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        self._process.join(0)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it -9, and see that this is what ended it."""
        os.kill(self.pid, signal.SIGKILL)
        ended = self.wait(10)
        assert ended.code == -signal.SIGKILL, ended.err

    def wait(self, timeout: float) -> Said:
        """Wait for its end."""
        limit = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < limit, self._err.read_text()
            self._process.join(0.05)
        ended = Said(int(self._process.exitcode or 0), self._out.read_text(), self._err.read_text())
        self._folder.cleanup()
        return ended


def _run(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    for part in filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)):
        site.addsitedir(part)
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as a process of its own would, without what the server has open
