"""Find a Java that OpenSearch 3 can run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.node.account import Account

OLDEST = 21  # class files of OpenSearch 3.x
JVM_FOLDER = Path("/usr/lib/jvm")


@dataclass(frozen=True)
class Jdk:
    """A Java installation.

    :param home: its folder; ``bin/java`` is below it.
    :param major: 21 for ``21.0.4``, 8 for ``1.8.0_292``.
    :param found_by: where we looked, for messages.
    """

    home: Path
    major: int
    found_by: str


def find_jdk(account: Account | None = None) -> Jdk:
    """Find a Java of version 21 or later.

    ``DARL_JAVA_HOME`` decides alone where it is set. Else ``JAVA_HOME``, then ``/usr/lib/jvm`` (the version
    closest to 21), then ``java`` on PATH.

    :param account: who will run the node; a Java that this user cannot reach is passed over.
    :raises DarlError: when there is none, naming what was found.
    """
    rejected: list[str] = []
    seen: set[Path] = set()
    for found_by, home in _candidates():
        home = home.resolve()
        if home in seen:
            continue
        seen.add(home)
        major = java_major(home / "bin" / "java")
        if major is None:
            if found_by != str(JVM_FOLDER):  # half-removed packages leave empty folders there
                rejected.append(f"{found_by} has no working java at {home}")
        elif major < OLDEST:
            rejected.append(f"{found_by} has Java {major} at {home}")
        elif account is not None and not account.can_reach(home / "bin" / "java"):
            rejected.append(f"{found_by} has Java {major} at {home}, which user {account.name} cannot read")
        else:
            return Jdk(home, major, found_by)
    raise DarlError(
        f"no Java {OLDEST} or later ({'; '.join(rejected) or 'no Java at all'})",
        where="java",
        todo=f"install a JDK {OLDEST} or later, or set DARL_JAVA_HOME to one",
    )


def java_major(java: Path) -> int | None:
    """Ask a Java for its version by running it: a ``release`` file may belong to another processor.

    :return: the major version, None when it does not run.
    """
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if done.returncode == 0 and found else None


def _candidates() -> Iterator[tuple[str, Path]]:
    if named := os.environ.get("DARL_JAVA_HOME"):
        yield "DARL_JAVA_HOME", Path(named)
        return
    if named := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(named)
    homes = [home for home in sorted(JVM_FOLDER.glob("*")) if (home / "bin" / "java").exists()]
    for home in sorted(homes, key=_distance):
        yield str(JVM_FOLDER), home
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path).resolve().parent.parent


def _distance(home: Path) -> int:
    """Sort key that runs nothing: versions from 21 up come first, the closest first; all others come last."""
    try:
        found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', (home / "release").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    major = int(found[1]) if found else 0
    return major - OLDEST if major >= OLDEST else 1000 - major
