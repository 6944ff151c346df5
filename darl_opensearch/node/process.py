"""Start a process of its own group, recognise it later, and end it with all its children."""

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
# Children of this process: kept so that they can be reaped, else a killed one lingers as a zombie.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Seen:
    """A process as the system shows it now.

    :param start: when it started, in the system's own words; with the pid it names one process for good.
    :param command: its command line; Linux shows none for the moment in which exec replaces one program by another.
    """

    start: str
    command: str


def look(pid: int) -> Seen | None:
    """Look at a process.

    :return: None when there is none of that number, or only its zombie.
    """
    _reap(pid)
    if not PROC.is_dir():
        return _look_with_ps(pid)
    try:
        fields = _stat(pid)
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return None if fields[0] in "ZX" else Seen(fields[19], command)


def start(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, account: Account | None
) -> tuple[int, Seen]:
    """Start a process that outlives this one.

    :param log: takes its output; emptied first.
    :param account: the user to run it as, None for this process's own.
    :return: its number, which is also its group's, and what it looks like.
    :raises DarlError: when it ended at once.
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
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for the node
            **switch,  # type: ignore[call-overload]
        )
    _children[child.pid] = child
    seen = look(child.pid)
    if seen is None:
        raise DarlError(f"{command[0]} exited immediately: {last_lines(log)}", where=str(log))
    return child.pid, seen


def stop(pid: int, timeout_s: float) -> bool:
    """End a process group: politely, then by force.

    :param pid: the group's number; the caller has made sure that it is ours.
    :param timeout_s: how long to wait before force is used.
    :return: True when it ended by itself.
    :raises DarlError: when it belongs to another user, or survives everything.
    """
    for number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 15.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            raise DarlError(
                "the process belongs to another user",
                where=f"process {pid}",
                todo="run this as that user, or as root",
            ) from None
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not group_lives(pid):
                return number == signal.SIGTERM
            time.sleep(0.05)
    raise DarlError("the process survived SIGKILL", where=f"process {pid}")


def last_lines(log: Path, count: int = 6) -> str:
    """Read the end of a log for a one-line message: from the first line there that names a failure.

    :return: the lines, joined by ``|``, without stack frames.
    """
    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError:
        return "no log"
    lines = [line.strip()[:400] for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("at ", "..."))][-40:]
    telling = (at for at, line in enumerate(lines) if any(word in line for word in FAILURES))
    first = next(telling, max(len(lines) - count, 0))
    return " | ".join(lines[first : first + count]) or "an empty log"


def holder_of(port: int) -> str | None:
    """Name the process that listens on a local port, as far as this user may know.

    :return: ``process 17 (nginx)``, or None when it cannot be told.
    """
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
            if (
                fields[2] == str(group) and fields[0] not in "ZX"
            ):  # a zombie whose parent is slow has ended all the same
                return True
    return False


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` after the name: state, parent, group …; start time is the 20th."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except ProcessLookupError as err:  # it ended between open and read
        raise FileNotFoundError(pid) from err


def _look_with_ps(pid: int) -> Seen | None:
    command = ["ps", "-ww", "-p", str(pid), "-o", "stat=", "-o", "lstart=", "-o", "command="]
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    fields = done.stdout.split(maxsplit=6)  # state, five words of date, command
    if done.returncode or len(fields) < 7 or fields[0].startswith("Z"):
        return None
    return Seen(" ".join(fields[1:6]), fields[6])
