"""Finding a Java that a version of OpenSearch can run on."""

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
from darl_opensearch.node.manifest import JavaVersions

JVM_FOLDER = Path("/usr/lib/jvm")


@dataclass(frozen=True)
class Jdk:
    """A Java installation.

    :param home: folder that contains ``bin/java``.
    :param major: 21 for ``21.0.4``, 8 for ``1.8.0_292``.
    :param found_by: the variable or folder that named it, for messages.
    """

    home: Path
    major: int
    found_by: str


def find_jdk(versions: JavaVersions, account: Account | None = None) -> Jdk:
    """Find a Java of one of these versions.

    Only ``DARL_JAVA_HOME`` is tried if it is set; else ``JAVA_HOME``, then ``/usr/lib/jvm`` (the oldest version that
    will do first), then ``java`` on PATH.

    :param account: the user who runs the node; a Java that this user cannot reach is skipped.
    :raises DarlError: if there is none; the message lists those that were rejected.
    """
    rejected: list[str] = []
    tried: set[Path] = set()
    for found_by, home in _candidates(versions):
        home = home.resolve()
        if home in tried:
            continue
        tried.add(home)
        major = java_major(home / "bin" / "java")
        if major is None:
            if found_by != str(JVM_FOLDER):  # half-removed packages leave empty folders there
                rejected.append(f"{found_by} has no working java at {home}")
        elif major not in versions:
            rejected.append(f"{found_by} has Java {major} at {home}")
        elif account is not None and not account.can_reach(home / "bin" / "java"):
            rejected.append(f"{found_by} has Java {major} at {home}, which user {account.name} cannot read")
        else:
            return Jdk(home, major, found_by)
    raise DarlError(
        f"no Java {versions} ({'; '.join(rejected) or 'no Java at all'})",
        where="java",
        todo=f"install a JDK {versions}, or set DARL_JAVA_HOME to one",
    )


def java_major(java: Path) -> int | None:
    """Run a Java for its major version; None if it does not run, as one for another processor would not."""
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(version[1]) if result.returncode == 0 and version else None


def _candidates(versions: JavaVersions) -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("DARL_JAVA_HOME"):
        yield "DARL_JAVA_HOME", Path(home)
        return
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home)
    installed = [folder for folder in sorted(JVM_FOLDER.glob("*")) if (folder / "bin" / "java").exists()]
    for folder in sorted(installed, key=lambda home: _distance(home, versions)):
        yield str(JVM_FOLDER), folder
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path).resolve().parent.parent


def _distance(home: Path, versions: JavaVersions) -> int:
    """Sort key without running Java: versions that will do first, the oldest first; all others last."""
    try:
        version = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', (home / "release").read_text("utf-8"), re.MULTILINE)
    except OSError:
        version = None
    major = int(version[1]) if version else 0
    return major if major in versions else 1000 - major
