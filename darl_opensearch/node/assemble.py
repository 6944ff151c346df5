"""Assembling a node from its artifacts, in a folder that appears only once it is complete."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.io.writing import new_folder
from darl_opensearch.node.cache import Layout, Report, lock_cache, make_folder, silent
from darl_opensearch.node.fetch import fetch
from darl_opensearch.node.java import Jdk
from darl_opensearch.node.manifest import Manifest, Module


def assemble(layout: Layout, manifest: Manifest, jdk: Jdk, report: Report = silent) -> Path:
    """Assemble the shared, read-only part of a node, unless it exists.

    After a kill, the next call resumes behind the last complete download.

    :return: the folder with ``opensearch/`` and ``natives/``.
    :raises DarlError: if a download or the installer fails.
    """
    dist = layout.dist(manifest)
    if dist.is_dir():
        return dist
    with lock_cache(layout.lock("assembly"), report):
        if dist.is_dir():
            return dist
        for folder in (dist.parent, layout.downloads(manifest)):  # under the lock, so a dead run left these
            for leftover in folder.glob(".*-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        files = {a.file: fetch(a, manifest, layout, jdk, report) for a in manifest.to_fetch()}
        make_folder(dist.parent)
        with new_folder(dist) as stage:
            report("unpacking the node")
            _unpack_distribution(files[manifest.distribution.file], stage)
            for module in manifest.modules:
                make_module(stage / "opensearch", module, manifest.version, [files[jar.file] for jar in module.jars])
            report(f"installing {len(manifest.plugins)} plugins")
            install_plugins(stage / "opensearch", [files[plugin.file] for plugin in manifest.plugins], jdk)
            (stage / "natives").mkdir()
            if natives := manifest.fitting_natives:
                report("unpacking the native libraries")
                archives = [files[archive.file] for archive in natives.archives]
                _unpack_natives(archives, natives.members, stage / "natives")
            _open_to_all(stage)
    return dist


def install_plugins(home: Path, plugins: Sequence[Path], jdk: Jdk) -> None:
    """Run OpenSearch's own installer, which also checks versions and jar conflicts.

    :param plugins: zip files, each after those that it extends.
    :raises DarlError: if it fails.
    """
    command = [str(home / "bin" / "opensearch-plugin"), "install", "--batch", *(path.as_uri() for path in plugins)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "OPENSEARCH_JAVA_HOME": str(jdk.home)}
    result = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        raise DarlError(
            f"installing plugins failed with exit code {result.returncode}: {' | '.join(lines[-3:])}",
            where=command[0],
        )


def make_module(home: Path, module: Module, version: str, jars: Sequence[Path]) -> None:
    """Make a module's folder: its jars, its descriptor, and what the security manager grants it.

    :param home: the unpacked distribution.
    :param version: of the distribution.
    """
    folder = home / "modules" / module.name
    folder.mkdir()
    for jar in jars:
        shutil.copyfile(jar, folder / jar.name)
    descriptor = {
        "name": module.name, "description": module.description, "version": version, "opensearch.version": version,
        "java.version": "11", "classname": module.classname, "extended.plugins": ",".join(module.extends),
        "has.native.controller": "false",
    }  # fmt: skip
    lines = "".join(f"{key}={value}\n" for key, value in descriptor.items())
    (folder / "plugin-descriptor.properties").write_text(lines, encoding="utf-8")
    if module.runtime_permissions:
        grants = (f'permission java.lang.RuntimePermission "{name}";' for name in module.runtime_permissions)
        policy = f"grant {{ {' '.join(grants)} }};\n"
        (folder / "plugin-security.policy").write_text(policy, encoding="utf-8")


def _unpack_distribution(archive: Path, stage: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            path = Path(source.extract(entry, stage))
            mode = stat.S_IMODE(entry.external_attr >> 16)  # zipfile does not restore modes, and bin/ is executable
            if mode and not entry.is_dir():
                path.chmod(mode)
    (unpacked,) = stage.iterdir()
    unpacked.rename(stage / "opensearch")


def _unpack_natives(archives: Sequence[Path], members: dict[str, str], folder: Path) -> None:
    for archive in archives:
        with zipfile.ZipFile(archive) as source:
            for member in sorted(members.keys() & set(source.namelist())):
                with source.open(member) as packed, (folder / members[member]).open("xb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    if missing := set(members.values()) - {path.name for path in folder.iterdir()}:
        raise DarlError(f"the archives lack {', '.join(sorted(missing))}", where=str(folder))


def _open_to_all(folder: Path) -> None:
    """Let the node's user read the whole folder, whatever the umask and the modes in the zip."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(stat.S_IMODE(mode) | (0o555 if path.is_dir() or mode & stat.S_IXUSR else 0o444))
