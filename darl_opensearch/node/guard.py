"""Ending what this process started even if it is killed: a second process waits for its end.

The second process reads a pipe that only this process writes to. The pipe closes however this process ends, so that
this works for SIGKILL, on every POSIX system, and for containers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from darl_opensearch.node import process

STOP_S = 10.0


class ExitGuard:
    """Calls a function in a second process if this process ends without :meth:`dismiss`.

    :param clean_up: function of a module, to call once this process has ended.
    :param arguments: its arguments.
    """

    def __init__(self, clean_up: Callable[..., object], *arguments: str) -> None:
        owner = process.look(os.getpid())
        code = (
            "import sys; sys.stdin.buffer.read(); "  # loads nothing while there is nothing to do
            f"from {__name__} import wait_for_end; from {clean_up.__module__} import {clean_up.__name__}; "
            f"wait_for_end(*sys.argv[1:3]); {clean_up.__name__}(*sys.argv[3:])"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, str(os.getpid()), owner.start if owner else "", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # neither Ctrl-C in the terminal nor its end must reach it
        )

    @classmethod
    def of_process(cls, pid: int, start: str) -> ExitGuard:
        """Guard a process group.

        :param start: start time of the process, as in :class:`~darl_opensearch.node.process.ProcessState`.
        """
        return cls(end_group, str(pid), start)

    def dismiss(self) -> None:
        """Let nothing happen at the end of this process, because nothing is left to end."""
        self._child.kill()
        self._child.communicate()


def wait_for_end(pid: str, start: str) -> None:
    """Wait for the end of a process, whose pipe closes a moment before.

    :param start: its start time.
    """
    while (owner := process.look(int(pid))) is not None and owner.start == start:
        time.sleep(0.05)


def end_group(pid: str, start: str) -> None:
    """End a process group, unless its process is another than that of this start time."""
    left = process.look(int(pid))
    if left is not None and left.start == start:
        process.stop(int(pid), STOP_S)
