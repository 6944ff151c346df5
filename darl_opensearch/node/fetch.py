"""Fetch artifacts with Maven, and keep only those whose digest is the committed one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.node.cache import Layout, Report, make_folder, silent
from darl_opensearch.node.java import Jdk
from darl_opensearch.node.manifest import Artifact, Manifest

ATTEMPTS = 3  # the first and two more
LIMIT_S = 1800  # for one artifact; the largest is 390 MB


def find_mvn() -> str:
    """Find the Maven client.

    :raises DarlError: when it is not on PATH.
    """
    if found := shutil.which("mvn"):
        return found
    raise DarlError("Maven is not on PATH, and the node is not cached yet", where="mvn", todo="install Maven")


def fetch(artifact: Artifact, manifest: Manifest, layout: Layout, jdk: Jdk, report: Report = silent) -> Path:
    """Bring one artifact into the cache's downloads, unless it is there already and whole.

    :param layout: the cache; the caller holds its assembly lock.
    :param jdk: runs Maven where there is no other Java.
    :param report: told what is fetched, and what is thrown away.
    :return: the file, verified.
    :raises DarlError: when the third attempt failed too.
    """
    target = make_folder(layout.downloads(manifest)) / artifact.file
    if target.exists():
        if digest_file(target) == artifact.sha256:
            return target
        report(f"{artifact.file} in the cache is damaged; fetching it again")
        target.unlink()
    problem = ""
    for attempt in range(1, ATTEMPTS + 1):
        report(f"fetching {artifact.file} ({artifact.bytes / 1e6:.1f} MB)" + (f", attempt {attempt}" * (attempt > 1)))
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            problem = _copy(artifact, manifest, layout, jdk, Path(folder))
            # Maven remembers failures, and keeps a second copy of successes: neither is of use to us.
            shutil.rmtree(_in_repo(artifact, layout), ignore_errors=True)
            if not problem:
                problem = _verify(Path(folder) / artifact.file, artifact)
            if not problem:
                (Path(folder) / artifact.file).replace(target)
                target.chmod(0o644)
                return target
        report(f"{artifact.file}: {problem}")
    raise DarlError(
        f"{problem} ({ATTEMPTS} attempts)",
        where=artifact.coordinates,
        todo="check the network and the mirrors in Maven's settings.xml, then run this again",
    )


def _copy(artifact: Artifact, manifest: Manifest, layout: Layout, jdk: Jdk, folder: Path) -> str:
    """Run Maven once; return what went wrong, or nothing."""
    command = [find_mvn(), "--batch-mode", "--quiet", "--update-snapshots", manifest.maven_goal]
    command += [f"-Dmaven.repo.local={layout.maven_repo}", f"-Dartifact={artifact.coordinates}"]
    command += [f"-DoutputDirectory={folder}", "-Dmdep.useBaseVersion=true"]
    env = dict(os.environ)
    if "JAVA_HOME" not in env and shutil.which("java") is None:
        env["JAVA_HOME"] = str(jdk.home)
    try:  # in the folder: a pom.xml where the user stands is none of our business
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"Maven did not finish in {LIMIT_S} s"
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    told = next((line for line in said if "ERROR" in line), said[-1] if said else "no message")
    return f"Maven failed with exit code {done.returncode}: {told}"


def _verify(path: Path, artifact: Artifact) -> str:
    """Compare a fresh download with the manifest; return what is wrong, or nothing."""
    if not path.exists():
        return f"Maven did not write {artifact.file}"
    if (size := path.stat().st_size) != artifact.bytes:
        return f"the download has {size} bytes instead of {artifact.bytes} and was discarded"
    if (digest := digest_file(path)) != artifact.sha256:
        return f"the download has SHA-256 {digest[:12]}… instead of {artifact.sha256[:12]}… and was discarded"
    return ""


def _in_repo(artifact: Artifact, layout: Layout) -> Path:
    group, name, version = artifact.coordinates.split(":")[:3]
    return layout.maven_repo.joinpath(*group.split("."), name, version)
