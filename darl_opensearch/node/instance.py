"""One node's own files: configuration, data, logs, and the record of its process."""

from __future__ import annotations

import json
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.io.writing import new_file
from darl_opensearch.node import docker, process
from darl_opensearch.node.account import Account
from darl_opensearch.node.cache import Layout, make_folder
from darl_opensearch.node.java import Jdk
from darl_opensearch.node.manifest import Manifest
from darl_opensearch.node.settings import Engine, NodeSpec, jvm_options, opensearch_yml

RECORD = "node.json"
CONSOLE = "console.log"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is needed to find a started node again, and to be sure that it is the one.

    :param pid: its process, which is also its process group.
    :param start: when that process started; a later one of the same number has another.
    :param container: Docker's id of it, empty otherwise.
    :param user: who it was started as, empty for the user who started it.
    :param owner_pid: the test process that it must not outlive, 0 for none.
    :param stopped: it was stopped by us; the record stays, for what Docker keeps of it.
    """

    engine: Engine
    port: int
    pid: int
    start: str
    mark: str = ""
    container: str = ""
    user: str = ""
    owner_pid: int = 0
    owner_start: str = ""
    stopped: bool = False

    def lives(self) -> bool:
        """Tell whether the recorded process is still there.

        :return: False also when another process has its number by now.
        """
        if self.stopped:
            return False
        seen = docker.look_at_container(self.container) if self.engine == "docker" else process.look(self.pid)
        if seen is None or seen.start != self.start:
            return False
        return not seen.command or self.mark in seen.command

    def orphaned(self) -> bool:
        """Tell whether the test process that owns it is gone."""
        if not self.owner_pid:
            return False
        owner = process.look(self.owner_pid)
        return owner is None or owner.start != self.owner_start

    def stop(self, timeout_s: float) -> bool:
        """End it if it lives; a process that is not the recorded one is left alone.

        :param timeout_s: how long it may take before force is used.
        """
        if self.engine == "docker":
            docker.require_docker()  # an engine that does not answer says nothing about its containers
        lives = self.lives()
        if self.engine == "docker":
            docker.stop_container(self.container)
        elif lives:
            process.stop(self.pid, timeout_s)
        return lives

    def last_words(self, folder: Path) -> str:
        """Read the end of its log.

        :return: a few lines, joined by ``|``.
        """
        if self.engine == "docker":
            return docker.container_log(self.container)
        return process.last_lines(folder / CONSOLE)


def read_node_record(folder: Path) -> Record | None:
    """Read a node's record.

    :return: None when no node was started there, or the record is of no use.
    """
    try:
        return Record(**json.loads((folder / RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_node_record(folder: Path, record: Record) -> None:
    """Write a node's record.

    :param folder: the instance's folder; the node's user cannot write there, so a record can be believed.
    """
    _write(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n", None)


def prepare_instance(
    layout: Layout, spec: NodeSpec, manifest: Manifest, account: Account | None, transport_port: int
) -> Path:
    """Make or renew the folders and the configuration of a node; its data stays."""
    folder, dist = make_folder(layout.instance(spec.port)), layout.dist(manifest)
    data, logs = folder / "data", folder / "logs"
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for name in ("config", "data", "logs", "tmp"):
        make_folder(folder / name)
    for shipped in (dist / "opensearch" / "config").iterdir():
        if shipped.is_file():
            text = shipped.read_text("utf-8")
            if shipped.name == "jvm.options":
                text = jvm_options(text, data, logs)
            elif shipped.name == "opensearch.yml":
                text = opensearch_yml(spec, transport_port, data, logs)
            _write(folder / "config" / shipped.name, text, account)
    natives = make_folder(data / "ml_cache" / manifest.natives.folder)
    for shipped in (dist / "natives").iterdir():
        if not (natives / shipped.name).exists():
            link_shipped(shipped, natives / shipped.name)
    if account is not None:
        for name in ("config", "data", "logs", "tmp"):
            hand_over(folder / name, account)
    return folder


def start_java(
    layout: Layout, spec: NodeSpec, manifest: Manifest, jdk: Jdk, account: Account | None, folder: Path
) -> Record:
    """Start a prepared node.

    :param folder: what ``prepare_instance`` made.
    :return: its record, not written yet.
    """
    home = layout.dist(manifest) / "opensearch"
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "tmp"),
        "OPENSEARCH_JAVA_HOME": str(jdk.home),
        "OPENSEARCH_PATH_CONF": str(folder / "config"),
        "OPENSEARCH_TMPDIR": str(folder / "tmp"),
        "OPENSEARCH_JAVA_OPTS": f"-Xms{spec.heap} -Xmx{spec.heap}",
        "OPT_OUT_TRACKING": "true",
    }
    if manifest.natives.fit_this_machine():
        env["DJL_OFFLINE"] = "true"
    command = [str(home / "bin" / "opensearch")]
    pid, seen = process.start(command, env=env, cwd=home, log=folder / CONSOLE, account=account)
    # The start script becomes Java by exec: same process, and both command lines name the home.
    return Record(
        engine="java",
        port=spec.port,
        pid=pid,
        start=seen.start,
        mark=str(home),
        user=account.name if account else "",
    )


def start_docker(spec: NodeSpec, manifest: Manifest) -> Record:
    """Start a node in a container.

    :return: its record, not written yet.
    :raises DarlError: when it ended at once.
    """
    container = docker.start_container(spec, manifest)
    seen = docker.look_at_container(container)
    if seen is None:
        words = docker.container_log(container)
        docker.remove_container(container)
        raise DarlError(f"the container exited immediately: {words}", where=spec.name)
    return Record(engine="docker", port=spec.port, pid=int(seen.command), start=seen.start, container=container)


def _write(path: Path, text: str, account: Account | None) -> None:
    """Replace a file, never following what the node's user may have put in its place."""
    with new_file(path) as work, work.open("x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)  # not by its name: in a folder of the node's user it may be a link by now
        if account is not None:
            os.fchown(file.fileno(), account.uid, account.gid)


def link_shipped(shipped: Path, target: Path) -> None:
    """Share 440 MB with the other instances where the file system can, else copy."""
    try:
        os.link(shipped, target)  # noqa: PTH200  hardlink_to reads backwards
    except FileExistsError:
        raise DarlError(
            "another file has the name of a native library",
            where=str(target),
            todo="run darl node down --purge, then run this again",
        ) from None
    except OSError:
        with shipped.open("rb") as source, target.open("xb") as copy:  # never through a link that lies there
            shutil.copyfileobj(source, copy, 1 << 20)


def hand_over(folder: Path, account: Account) -> None:
    """Give a folder and all below it to the node's user, who may be moving things about in it meanwhile."""
    os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    for _, folders, files, within in os.fwalk(folder):  # entries by their folder's descriptor: no link leads astray
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=within, follow_symlinks=False)
                shared = not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1  # the distribution's file too
                if not shared and status.st_uid != account.uid:
                    os.chown(name, account.uid, account.gid, dir_fd=within, follow_symlinks=False)
