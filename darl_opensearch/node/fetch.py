"""Fetching artifacts with Maven; only those with the committed digest are used."""

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

    :raises DarlError: if it is not on PATH.
    """
    if path := shutil.which("mvn"):
        return path
    raise DarlError("Maven is not on PATH, and the node is not cached yet", where="mvn", todo="install Maven")


def fetch(artifact: Artifact, manifest: Manifest, layout: Layout, jdk: Jdk, report: Report = silent) -> Path:
    """Download an artifact into the cache, unless an intact copy is there; return the verified file.

    :param layout: the cache; the caller holds its assembly lock.
    :param jdk: runs Maven if there is no other Java.
    :raises DarlError: if all attempts fail.
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
            # Maven caches failures, and keeps a second copy of every success.
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
    """Run Maven once; return an error message, or ``""``."""
    command = [find_mvn(), "--batch-mode", "--quiet", "--update-snapshots", manifest.maven_goal]
    command += [f"-Dmaven.repo.local={layout.maven_repo}", f"-Dartifact={artifact.coordinates}"]
    command += [f"-DoutputDirectory={folder}", "-Dmdep.useBaseVersion=true"]
    env = dict(os.environ)
    if "JAVA_HOME" not in env and shutil.which("java") is None:
        env["JAVA_HOME"] = str(jdk.home)
    try:  # in that folder, so that a pom.xml in the user's folder is not read
        result = subprocess.run(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"Maven did not finish in {LIMIT_S} s"
    if result.returncode == 0:
        return ""
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    reason = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no message")
    return f"Maven failed with exit code {result.returncode}: {reason}"


def _verify(path: Path, artifact: Artifact) -> str:
    """Compare a download with the manifest; return an error message, or ``""``."""
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
