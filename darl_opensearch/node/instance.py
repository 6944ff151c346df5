"""A node's own files: configuration, data, logs, and the record of its process."""

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
from darl_opensearch.node.manifest import DEFAULT_VERSION, Manifest
from darl_opensearch.node.settings import Engine, NodeSpec, jvm_options, opensearch_yml

RECORD = "node.json"
CONSOLE = "console.log"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Identifies a started node, so that no other process is mistaken for it.

    :param pid: its process, which is also its process group.
    :param start: start time of that process; a later process with the same number has another.
    :param version: of OpenSearch; its data cannot be read by an older one.
    :param mark: text that its command line contains.
    :param container: Docker's id, or ``""``.
    :param user: the user it was started as, or ``""`` for the current one.
    :param owner_pid: the test process that it must not outlive, or 0.
    :param stopped: whether we stopped it; the record stays, because Docker keeps its volume.
    """

    engine: Engine
    port: int
    pid: int
    start: str
    version: str = DEFAULT_VERSION  # of records of before there were two
    mark: str = ""
    container: str = ""
    user: str = ""
    owner_pid: int = 0
    owner_start: str = ""
    stopped: bool = False

    def lives(self) -> bool:
        """Whether the recorded process is running, and not another one with its number."""
        if self.stopped:
            return False
        state = docker.look_at_container(self.container) if self.engine == "docker" else process.look(self.pid)
        if state is None or state.start != self.start:
            return False
        return not state.command or self.mark in state.command

    def orphaned(self) -> bool:
        """Whether the test process that owns it has ended."""
        if not self.owner_pid:
            return False
        owner = process.look(self.owner_pid)
        return owner is None or owner.start != self.owner_start

    def stop(self, timeout_s: float) -> bool:
        """Stop the recorded process, and no other; return whether it was running.

        :param timeout_s: seconds to wait before it is killed.
        """
        if self.engine == "docker":
            docker.require_docker()  # without its engine, a container looks as if it had ended
        lives = self.lives()
        if self.engine == "docker":
            docker.stop_container(self.container)
        elif lives:
            process.stop(self.pid, timeout_s)
        return lives

    def last_lines(self, folder: Path) -> str:
        """Read the last lines of its log, joined by ``|``."""
        if self.engine == "docker":
            return docker.container_log(self.container)
        return process.last_lines(folder / CONSOLE)


def read_node_record(folder: Path) -> Record | None:
    """Read a node's record; None if it is missing or unreadable."""
    try:
        return Record(**json.loads((folder / RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_node_record(folder: Path, record: Record) -> None:
    """Write a node's record to the instance's folder, where the node's user cannot change it."""
    _write(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n", None)


def prepare_instance(
    layout: Layout, spec: NodeSpec, manifest: Manifest, account: Account | None, transport_port: int
) -> Path:
    """Create or renew a node's folders and configuration; its data stays."""
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
    if manifest.natives is not None:
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
    """Start a node in the folder from :func:`prepare_instance`; return its record, not written yet."""
    home = layout.dist(manifest) / "opensearch"
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "tmp"),
        "OPENSEARCH_JAVA_HOME": str(jdk.home),
        "OPENSEARCH_PATH_CONF": str(folder / "config"),
        "OPENSEARCH_TMPDIR": str(folder / "tmp"),
        "OPENSEARCH_JAVA_OPTS": spec.java_opts,
        "OPT_OUT_TRACKING": "true",
    }
    if manifest.fitting_natives:
        env["DJL_OFFLINE"] = "true"
    command = [str(home / "bin" / "opensearch")]
    pid, state = process.start(command, env=env, cwd=home, log=folder / CONSOLE, account=account)
    # The start script becomes Java by exec: same process, and both command lines name the home.
    user = account.name if account else ""
    return Record(
        engine="java", port=spec.port, pid=pid, start=state.start, version=spec.version, mark=str(home), user=user
    )


def start_docker(spec: NodeSpec, manifest: Manifest) -> Record:
    """Start a node in a container; return its record, not written yet.

    :raises DarlError: if it exits immediately.
    """
    container = docker.start_container(spec, manifest)
    state = docker.look_at_container(container)
    if state is None:
        log = docker.container_log(container)
        docker.remove_container(container)
        raise DarlError(f"the container exited immediately: {log}", where=spec.name)
    return Record(
        engine="docker", port=spec.port, pid=int(state.command), start=state.start, version=spec.version,
        container=container,
    )  # fmt: skip


def _write(path: Path, text: str, account: Account | None) -> None:
    """Replace a file without following a link that the node's user may have put in its place."""
    with new_file(path) as work, work.open("x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)  # not by its name: in a folder of the node's user it may be a link by now
        if account is not None:
            os.fchown(file.fileno(), account.uid, account.gid)


def link_shipped(shipped: Path, target: Path) -> None:
    """Link a native library, because instances share 440 MB of them; copy it if the file system has no links."""
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
    """Give a folder and everything in it to the node's user, who may be changing it at the same time."""
    os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    for _, folders, files, within in os.fwalk(folder):  # entries by their folder's descriptor: no link leads astray
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=within, follow_symlinks=False)
                shared = not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1  # linked to the distribution's file
                if not shared and status.st_uid != account.uid:
                    os.chown(name, account.uid, account.gid, dir_fd=within, follow_symlinks=False)
