"""Starting a process in a group of its own, recognising it later, and ending it with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.node.account import Account

PROC = Path("/proc")
FAILURES = ("ERROR", "FATAL", "Exception", "rror:")
# Children of this process, to be reaped: a killed one would stay a zombie.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class ProcessState:
    """A process as the system shows it now.

    :param start: start time in the system's own format; with the pid it identifies a process for good.
    :param command: its command line; empty on Linux while exec replaces the program.
    """

    start: str
    command: str


def look(pid: int) -> ProcessState | None:
    """Look at a process; None if it does not exist, or is a zombie."""
    _reap(pid)
    if not PROC.is_dir():
        return _look_with_ps(pid)
    try:
        fields = _stat(pid)
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessState(fields[19], command)


def start(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, account: Account | None
) -> tuple[int, ProcessState]:
    """Start a process that outlives this one; return its number, which is also its group's, and its state.

    :param log: file for its output; emptied first.
    :param account: the user to run it as; None for the current one.
    :raises DarlError: if it exits immediately.
    """
    switch: dict[str, object] = {}
    if account is not None:
        switch = {"user": account.uid, "group": account.gid, "extra_groups": []}
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not reach the node
            **switch,  # type: ignore[call-overload]
        )
    _children[child.pid] = child
    state = look(child.pid)
    if state is None:
        raise DarlError(f"{command[0]} exited immediately: {last_lines(log)}", where=str(log))
    return child.pid, state


def stop(pid: int, timeout_s: float) -> bool:
    """Terminate a process group, and kill it if that takes too long; return whether terminating was enough.

    :param pid: the group's number; the caller has checked that it is ours.
    :param timeout_s: seconds to wait before it is killed.
    :raises DarlError: if it belongs to another user, or survives being killed.
    """
    for signal_number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 15.0)):
        try:
            os.killpg(pid, signal_number)
        except ProcessLookupError:
            return True
        except PermissionError:
            raise DarlError(
                "the process belongs to another user", where=f"process {pid}", todo="run this as that user, or as root"
            ) from None
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not group_lives(pid):
                return signal_number == signal.SIGTERM
            time.sleep(0.05)
    raise DarlError("the process survived SIGKILL", where=f"process {pid}")


def last_lines(log: Path, count: int = 6) -> str:
    """Read a log's last lines for a one-line message, joined by ``|``.

    Stack frames are left out, and the first of the last 40 lines that names a failure comes first.
    """
    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError:
        return "no log"
    lines = [line.strip()[:400] for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("at ", "..."))][-40:]
    failures = (number for number, line in enumerate(lines) if any(word in line for word in FAILURES))
    first = next(failures, max(len(lines) - count, 0))
    return " | ".join(lines[first : first + count]) or "an empty log"


def find_holder(port: int) -> str | None:
    """Find the process that listens on a local port: ``process 17 (nginx)``, or None if this user cannot see it."""
    sockets = set()
    for table in (PROC / "net" / "tcp", PROC / "net" / "tcp6"):
        with suppress(OSError):
            for row in table.read_text("ascii").splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for folder in PROC.glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if any(os.readlink(link) in sockets for link in (folder / "fd").iterdir()):  # noqa: PTH115  not a path
                return f"process {folder.name} ({(folder / 'comm').read_text('utf-8').strip()})"
    return None


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def group_lives(group: int) -> bool:
    """Whether any process of a group is still running."""
    _reap(group)
    if not PROC.is_dir():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            fields = _stat(int(folder.name))
            if fields[2] == str(group) and fields[0] not in "ZX":  # a zombie has ended, even if nothing reaped it yet
                return True
    return False


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` after the name: state, parent, group …; start time is the 20th."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except ProcessLookupError as err:  # it ended between open and read
        raise FileNotFoundError(pid) from err


def _look_with_ps(pid: int) -> ProcessState | None:
    command = ["ps", "-ww", "-p", str(pid), "-o", "stat=", "-o", "lstart=", "-o", "command="]
    result = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    fields = result.stdout.split(maxsplit=6)  # state, five words of date, command
    if result.returncode or len(fields) < 7 or fields[0].startswith("Z"):
        return None
    return ProcessState(" ".join(fields[1:6]), fields[6])
