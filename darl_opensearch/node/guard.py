"""Ending what this process started even if it is killed: a second process waits for its end.

The second process reads a pipe that only this process writes to. The pipe closes however this process ends, so that
this works for SIGKILL, on every POSIX system, and for containers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from darl_opensearch.node import process
from darl_opensearch.node.cache import Layout

PROGRAM = "import sys; sys.stdin.buffer.read(); from darl_opensearch.node import guard; guard.clean_up(*sys.argv[1:])"
STOP_S = 10.0


class Guard:
    """Ends a process group, or the nodes that this process owns, if this process ends without :meth:`dismiss`."""

    def __init__(self, *arguments: str) -> None:
        owner = process.look(os.getpid())
        self._child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(os.getpid()), owner.start if owner else "", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # neither Ctrl-C in the terminal nor its end must reach it
        )

    @classmethod
    def of_process(cls, pid: int, start: str) -> Guard:
        """Guard a process group.

        :param start: start time of the process, as in :class:`~darl_opensearch.node.process.ProcessState`.
        """
        return cls("process", str(pid), start)

    @classmethod
    def of_nodes(cls, layout: Layout) -> Guard:
        """Guard the nodes in a cache that this process owns, now or later."""
        return cls("nodes", str(layout.cache))

    def dismiss(self) -> None:
        """Let nothing happen at the end of this process, because nothing is left to end."""
        self._child.kill()
        self._child.communicate()


def clean_up(pid: str, start: str, kind: str, *what: str) -> None:
    """Wait for the end of a process, whose pipe has closed, and end what it left.

    :param start: its start time.
    :param kind: ``process`` with its number and start time, or ``nodes`` with their cache.
    """
    while (owner := process.look(int(pid))) is not None and owner.start == start:
        time.sleep(0.05)
    if kind == "process":
        left = process.look(int(what[0]))
        if left is not None and left.start == what[1]:
            process.stop(int(what[0]), STOP_S)
    else:
        from darl_opensearch.node.lifecycle import remove_orphans

        remove_orphans(Layout(Path(what[0])))
