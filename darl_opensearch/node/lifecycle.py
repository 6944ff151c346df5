"""Starting, stopping and inspecting nodes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.errors import DarlError
from darl_opensearch.node import docker, process
from darl_opensearch.node.account import Account, node_account
from darl_opensearch.node.assemble import assemble
from darl_opensearch.node.cache import Layout, Report, find_cache, lock_cache, make_folder, silent
from darl_opensearch.node.fetch import find_mvn
from darl_opensearch.node.guard import ExitGuard
from darl_opensearch.node.instance import (
    CONSOLE,
    Record,
    prepare_instance,
    read_node_record,
    start_docker,
    start_java,
    write_node_record,
)
from darl_opensearch.node.java import Jdk, find_jdk
from darl_opensearch.node.manifest import DEFAULT_VERSION, Manifest, NodeVersion, manifest_path, read_manifest
from darl_opensearch.node.ports import HOST, free_port, get_json, refuse_taken
from darl_opensearch.node.settings import Engine, NodeSpec

STOP_S = 30.0


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """State of a node.

    :param state: ``starting`` while its process runs but does not answer.
    :param engine: None unless it is running.
    :param pid: None unless it is running.
    :param user: the user who runs it; None for the one who started it.
    :param version: of OpenSearch; None unless it answers.
    :param plugins: versions by name; empty unless it answers.
    :param log: file of its output; None for a container.
    :param reaches_host_as: name by which it reaches servers on this machine.
    :param changed: whether the call that returned this started or stopped it.
    """

    state: Literal["running", "starting", "stopped"]
    port: int
    url: str
    engine: Engine | None = None
    pid: int | None = None
    user: str | None = None
    version: str | None = None
    plugins: dict[str, str] = field(default_factory=dict)
    folder: Path
    log: Path | None = None
    reaches_host_as: str = HOST
    changed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Render as JSON values, for ``--json``."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class NodePossible:
    """Whether this machine can run a node.

    :param engine: None if it cannot.
    :param reason: why, in one sentence.
    """

    engine: Engine | None
    reason: str

    def __bool__(self) -> bool:
        return self.engine is not None


def node_possible(spec: NodeSpec | None = None) -> NodePossible:
    """Check whether :func:`up` would find what it needs; nothing is fetched or started."""
    spec = spec or NodeSpec()
    try:
        account, manifest = node_account(spec.user), read_manifest(manifest_path(spec.version))
        engine, jdk = _choose(spec, find_cache(spec.cache, account), manifest, account)
    except DarlError as err:
        return NodePossible(None, str(err))
    return NodePossible(engine, f"Java {jdk.major} at {jdk.home}" if jdk else "Docker's engine answers")


def up(spec: NodeSpec | None = None, report: Report = silent) -> NodeStatus:
    """Start a node unless it is running, and wait until it answers.

    :raises DarlError: if it cannot be assembled or started, or does not answer in time; it is then stopped.
    """
    return _up(spec or NodeSpec(), report, owned=False)


def down(
    port: int = 9200,
    *,
    cache: Path | None = None,
    purge: bool = False,
    timeout_s: float = STOP_S,
    report: Report = silent,
) -> NodeStatus:
    """Stop a node and all its processes, if it is running.

    :param purge: also delete its data, logs and configuration.
    :param timeout_s: seconds to wait before it is killed.
    """
    return _down(find_cache(cache, node_account()), port, purge=purge, timeout_s=timeout_s, report=report)


def _down(layout: Layout, port: int, *, purge: bool, timeout_s: float, report: Report) -> NodeStatus:
    folder = layout.instance(port)
    with lock_cache(layout.lock(str(port)), report):
        changed, record = False, read_node_record(folder)
        if record is not None and not record.stopped:
            report(f"stopping the node on port {port}")
            changed = record.stop(timeout_s)
            write_node_record(folder, replace(record, stopped=True))
        if purge:
            if record is not None and record.engine == "docker":
                docker.remove_volume(port)
            if folder.exists():
                shutil.rmtree(folder)
    return replace(_status(folder, port), changed=changed)


def status(port: int = 9200, *, cache: Path | None = None) -> NodeStatus:
    """Inspect a node."""
    return _status(find_cache(cache, node_account()).instance(port), port)


@contextmanager
def running_node(
    port: int | None = None,
    *,
    version: NodeVersion = DEFAULT_VERSION,
    heap: str = "1g",
    timeout_s: float = 180.0,
    cache: Path | None = None,
    engine: Literal["auto", "java", "docker"] = "auto",
    report: Report = silent,
) -> Iterator[NodeStatus]:
    """Run a fresh node for a test, and delete it afterwards.

    If this process is killed first, a :class:`~darl_opensearch.node.guard.ExitGuard` deletes it, or else the next call.

    :param port: by default a free one.
    :yield: the status of the running node.
    :raises DarlError: if it cannot be started, or a node is running on that port.
    """
    layout = find_cache(cache, node_account())
    remove_orphaned_nodes(layout.cache, report)
    port = free_port() if port is None else port
    if status(port, cache=cache).state != "stopped":
        raise DarlError(
            "a node from this cache is already running on that port",
            where=f"{HOST}:{port}",
            todo=f"darl node down --port {port}",
        )
    down(port, cache=cache, purge=True)
    guard = ExitGuard(remove_orphaned_nodes, str(layout.cache))
    try:
        spec = NodeSpec(port=port, version=version, heap=heap, timeout_s=timeout_s, cache=cache, engine=engine)
        yield _up(spec, report, owned=True)
    finally:
        down(port, cache=cache, purge=True, report=report)
        guard.dismiss()


def _up(spec: NodeSpec, report: Report, *, owned: bool) -> NodeStatus:
    account = node_account(spec.user)
    layout = find_cache(spec.cache, account, report)
    folder = layout.instance(spec.port)
    with lock_cache(layout.lock(str(spec.port)), report):
        record = read_node_record(folder)
        if record is not None and record.version != spec.version:
            raise DarlError(
                f"the node on this port has OpenSearch {record.version}, not {spec.version}",
                where=f"{HOST}:{spec.port}",
                todo=f"choose another --port, or run darl node down --port {spec.port} --purge, which deletes its data",
            )
        if record is not None and record.lives():
            wait_until_healthy(spec, record, folder, report)
            return _status(folder, spec.port)
        refuse_taken(spec.port)
        record = _start(spec, layout, account, report)
        try:
            write_node_record(folder, _add_owner(record) if owned else record)
            wait_until_healthy(spec, record, folder, report)
        except BaseException:
            record.stop(STOP_S)
            write_node_record(folder, replace(record, stopped=True))
            raise
    return replace(_status(folder, spec.port), changed=True)


def _start(spec: NodeSpec, layout: Layout, account: Account | None, report: Report) -> Record:
    manifest = read_manifest(manifest_path(spec.version))
    jdk = _choose(spec, layout, manifest, account)[1]
    if jdk is None:
        make_folder(layout.instance(spec.port))
        report(f"starting {manifest.image} on port {spec.port}; the first start fetches the image")
        return start_docker(spec, manifest)
    assemble(layout, manifest, jdk, report)
    folder = prepare_instance(layout, spec, manifest, account, free_port(first=spec.port + 100))
    report(f"starting OpenSearch {manifest.version} on port {spec.port}")
    return start_java(layout, spec, manifest, jdk, account, folder)


def _add_owner(record: Record) -> Record:
    this_process = process.look(os.getpid())
    return replace(record, owner_pid=os.getpid(), owner_start=this_process.start if this_process else "")


def _choose(spec: NodeSpec, layout: Layout, manifest: Manifest, account: Account | None) -> tuple[Engine, Jdk | None]:
    """Choose between Java and Docker; the error for ``auto`` says why neither works."""
    reasons = []
    if spec.engine in ("auto", "java"):
        try:
            jdk = find_jdk(manifest.java, account)
            if not layout.dist(manifest).is_dir():
                find_mvn()
            return "java", jdk
        except DarlError as err:
            if spec.engine == "java":
                raise
            reasons.append(str(err).rstrip("."))
    try:
        docker.require_docker()
    except DarlError as err:
        if spec.engine == "docker":
            raise
        reasons.append(str(err).rstrip("."))
        raise DarlError(f"neither Java nor Docker can run a node here. {'; or '.join(reasons)}") from None
    return "docker", None


def wait_until_healthy(spec: NodeSpec, record: Record, folder: Path, report: Report) -> None:
    """Wait until the node is healthy.

    :raises DarlError: if it exits before, or takes too long.
    """
    deadline, reported = time.monotonic() + spec.timeout_s, False
    while True:
        if not record.lives():
            raise DarlError(f"the node exited during startup: {record.last_lines(folder)}", where=str(folder / CONSOLE))
        health = get_json(spec.port, "/_cluster/health?wait_for_status=yellow&timeout=1s")
        if (
            isinstance(health, dict)
            and health.get("cluster_name") == spec.name
            and health["status"] in ("yellow", "green")
        ):
            return
        if time.monotonic() > deadline:
            raise DarlError(
                f"the node did not answer within {spec.timeout_s:.0f} s: {record.last_lines(folder)}",
                where=str(folder / CONSOLE),
                todo="raise --timeout",
            )
        if not reported:
            report("waiting for the node to answer")
            reported = True
        time.sleep(0.2)


def _status(folder: Path, port: int) -> NodeStatus:
    stopped = NodeStatus(state="stopped", port=port, url=f"http://{HOST}:{port}", folder=folder)
    record = read_node_record(folder)
    if record is None or not record.lives():
        return stopped
    starting = replace(
        stopped,
        state="starting",
        engine=record.engine,
        pid=record.pid,
        user=record.user or None,
        log=folder / CONSOLE if record.engine == "java" else None,
        reaches_host_as="host.docker.internal" if record.engine == "docker" else HOST,
    )
    root = get_json(port, "/")
    plugins = get_json(port, "/_cat/plugins?format=json")
    if not isinstance(root, dict) or root.get("cluster_name") != f"darl-{port}" or not isinstance(plugins, list):
        return starting
    names = {plugin["component"]: plugin["version"] for plugin in plugins}
    return replace(starting, state="running", version=root["version"]["number"], plugins=names)


def remove_orphaned_nodes(cache: Path | str, report: Report = silent) -> None:
    """Remove the nodes of :func:`running_node` whose process was killed.

    :param cache: folder of the cache, as a layout has it.
    """
    layout = Layout(Path(cache))
    for folder in (layout.root / "instances").glob("[0-9]*"):
        record = read_node_record(folder)
        if record is not None and record.orphaned():
            report(f"removing the node on port {folder.name}, left by a killed process")
            _down(layout, int(folder.name), purge=True, timeout_s=STOP_S, report=report)
