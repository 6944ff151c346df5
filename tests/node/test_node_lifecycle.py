"""Up, down and status of the fake node: a real process that speaks HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.node import NodeSpec, down, lifecycle, node_possible, process, running_node, status, up
from darl_opensearch.node.account import Account
from darl_opensearch.node.instance import (
    CONSOLE,
    hand_over,
    link_shipped,
    prepare_instance,
    read_node_record,
    write_node_record,
)
from darl_opensearch.node.ports import RANGE, free_port, is_free


def processes_of(world) -> list[str]:
    """Command lines of what still runs out of this test's folders."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(world.layout.cache) in command:
            found.append(command)
    return found


def test_up_status_down(world) -> None:
    told: list[str] = []
    port = free_port()
    assert status(port).state == "stopped"
    node = up(NodeSpec(port=port), told.append)
    assert (node.state, node.version, node.plugins) == ("running", "9.9.9", {"plugin-a": "1.0"})
    assert (node.url, node.engine, node.changed) == (f"http://127.0.0.1:{port}", "java", True)
    assert told[-2:] == [f"starting OpenSearch 9.9.9 on port {port}", "waiting for the node to answer"]
    assert replace(status(port), changed=True) == node
    again = up(NodeSpec(port=port))
    assert (again.pid, again.changed) == (node.pid, False)
    stopped = down(port)
    assert (stopped.state, stopped.changed, stopped.pid) == ("stopped", True, None)
    assert processes_of(world) == []
    assert (world.layout.instance(port) / "data").is_dir()
    assert down(port).changed is False
    down(port, purge=True)
    assert not world.layout.instance(port).exists()


def test_another_version_on_the_same_port(world) -> None:
    port = free_port()
    up(NodeSpec(port=port, version="2.19.1"))
    for _ in range(2):  # while it runs, and while its data are there
        with pytest.raises(
            DarlError, match=rf"^127\.0\.0\.1:{port}: the node on this port has OpenSearch 2\.19\.1, not 3"
        ):
            up(NodeSpec(port=port))
        down(port)
    down(port, purge=True)
    assert up(NodeSpec(port=port)).changed


def test_the_configuration(world) -> None:
    port = free_port()
    folder = up(NodeSpec(port=port)).folder
    rows = dict(row.split(": ", 1) for row in (folder / "config" / "opensearch.yml").read_text().splitlines())
    settings = {key: json.loads(value) for key, value in rows.items()}
    assert settings["network.host"] == "127.0.0.1"
    assert settings["transport.port"] == str(port + 100)
    assert settings["path.data"] == str(folder / "data")
    regex = settings["plugins.ml_commons.trusted_connector_endpoints_regex"]
    assert re.fullmatch(regex, "http://127.0.0.1:18080/v1/rerank")
    assert not re.fullmatch(regex, "http://127.0.0.1.example.org:80/") and "," not in regex
    options = (folder / "config" / "jvm.options").read_text()
    assert f"-XX:HeapDumpPath={folder}/data\n" in options
    assert f"-XX:ErrorFile={folder}/logs/hs_err" in options
    assert f":file={folder}/logs/gc.log:utctime\n" in options
    assert "-javaagent:agent/opensearch-agent.jar" in options  # relative to the home, which is where it starts
    native = folder / "data" / "ml_cache" / "pytorch" / "9-cpu" / "1-libtorch.so"
    assert native.samefile(world.layout.dist(world.manifest) / "natives" / "1-libtorch.so")


def test_files_go_to_the_node_user_and_shared_ones_do_not(world, monkeypatch) -> None:
    up(NodeSpec(port=(port := free_port())))
    down(port)
    handed: list[str] = []

    def chown(path, *_, dir_fd=None, **__) -> None:
        handed.append(str(path) if dir_fd is None else str(Path(f"/proc/self/fd/{dir_fd}").readlink() / path))

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    who = Account("other", os.getuid() + 1, os.getgid())
    folder = prepare_instance(world.layout, NodeSpec(port=port), world.manifest, who, 1)
    assert {str(folder / name) for name in ("config", "data", "logs", "tmp", "data/ml_cache")} <= set(handed)
    assert str(folder) not in handed  # the record of the process stays root's
    assert not [path for path in handed if path.endswith(".so")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_links_of_the_node_user_lead_nowhere(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not the node's")
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "own").write_text("the node's")
    (folder / "folder-link").symlink_to(outside)
    (folder / "deep" / "file-link").symlink_to(outside / "file")
    hand_over(folder, Account("nobody", 65534, 65534))
    assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {65534}
    assert [outside.stat().st_uid, (outside / "file").stat().st_uid] == [0, 0]
    library = tmp_path / "library.so"
    library.write_text("shipped")
    (folder / "library.so").symlink_to(outside / "made-by-root")
    with pytest.raises(DarlError, match="another file has the name of a native library"):
        link_shipped(library, folder / "library.so")
    assert not (outside / "made-by-root").exists()


def test_a_node_that_dies_while_starting(world) -> None:
    world.behave("dies")
    port = free_port()
    with pytest.raises(DarlError) as caught:
        up(NodeSpec(port=port))
    log = world.layout.instance(port) / CONSOLE
    assert str(caught.value) == (
        f"{log}: the node exited during startup: [ERROR] bootstrap checks failed: too few file descriptors."
    )
    assert status(port).state == "stopped"


def test_a_node_that_never_answers_is_stopped(world) -> None:
    world.behave("mute")
    port = free_port()
    with pytest.raises(DarlError, match=r"did not answer within 1 s: an empty log\. Raise --timeout\."):
        up(NodeSpec(port=port, timeout_s=0.6))
    assert processes_of(world) == []


def test_interrupting_up_stops_the_node(world, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "wait_until_healthy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        up(NodeSpec(port=(port := free_port())))
    assert processes_of(world) == []
    assert read_node_record(world.layout.instance(port)).stopped


def test_a_starting_node_is_waited_for_by_the_next_up(world, monkeypatch) -> None:
    port = free_port()
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "wait_until_healthy", lambda *_: None)  # as if the first `up` had been killed here
        first = up(NodeSpec(port=port))
    assert status(port).state in ("starting", "running")
    second = up(NodeSpec(port=port))
    assert (second.state, second.pid) == ("running", first.pid)


@pytest.mark.parametrize("behaviour", ["stubborn", "parent"])
def test_down_leaves_no_process(world, behaviour: str) -> None:
    world.behave(behaviour)
    node = up(NodeSpec(port=(port := free_port())))
    down(port, timeout_s=0.3)
    assert processes_of(world) == []
    assert not process.group_lives(node.pid)  # its child included


def test_another_process_of_the_same_number_is_left_alone(world) -> None:
    port = free_port()
    pid = up(NodeSpec(port=port)).pid
    folder = world.layout.instance(port)
    record = read_node_record(folder)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        while not process.look(bystander.pid).command:
            time.sleep(0.01)
        write_node_record(folder, replace(record, pid=bystander.pid, start=process.look(bystander.pid).start))
        assert status(port).state == "stopped"  # its command line is another
        write_node_record(folder, replace(record, start="1"))
        assert status(port).state == "stopped"  # it started at another time
        write_node_record(folder, replace(record, pid=bystander.pid))
        assert down(port).changed is False
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        process.stop(pid, 1)


def test_a_process_between_two_programs_lives(world, monkeypatch) -> None:
    port = free_port()
    up(NodeSpec(port=port))
    record = read_node_record(world.layout.instance(port))
    with monkeypatch.context() as patch:
        patch.setattr(process, "look", lambda _: process.ProcessState(record.start, ""))
        assert record.lives()  # the start script is being replaced by Java
        patch.setattr(process, "look", lambda _: process.ProcessState("1", ""))
        assert not record.lives()


def test_a_broken_record_is_no_node(world) -> None:
    folder = world.layout.instance(port := free_port())
    folder.mkdir(parents=True)
    for text in ("", "{", "[]", '{"engine": "java"}'):
        (folder / "node.json").write_text(text)
        assert status(port).state == "stopped"


def test_a_taken_port_names_its_holder(world) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(DarlError) as caught:
            up(NodeSpec(port=port))
    name = Path("/proc/self/comm").read_text().strip()
    assert str(caught.value) == (
        f"127.0.0.1:{port}: the port is in use by process {os.getpid()} ({name}). Stop it, or choose another --port."
    )
    assert world.mvn_calls() == []  # said before anything is fetched


def test_a_port_taken_by_a_node_of_another_cache(world, monkeypatch, tmp_path) -> None:
    node = up(NodeSpec(port=free_port()))
    with pytest.raises(DarlError, match=f"an OpenSearch node of cluster 'darl-{node.port}', not started from this"):
        up(NodeSpec(port=node.port, cache=tmp_path / "other"))


def test_a_taken_transport_port_is_avoided(world) -> None:
    with socket.socket() as listener:
        while True:
            port = free_port()
            try:
                listener.bind(("127.0.0.1", port + 100))
                break
            except OSError:
                continue
        listener.listen()
        folder = up(NodeSpec(port=port)).folder
    (row,) = [row for row in (folder / "config" / "opensearch.yml").read_text().splitlines() if "transport.port" in row]
    assert json.loads(row.partition(": ")[2]) != str(port + 100)
    assert free_port() in RANGE


def test_two_ups_start_one_node(world) -> None:
    port, found = free_port(), []
    threads = [threading.Thread(target=lambda: found.append(up(NodeSpec(port=port)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found[0].pid == found[1].pid
    assert sorted(node.changed for node in found) == [False, True]


def test_running_node_leaves_nothing(world) -> None:
    with pytest.raises(ZeroDivisionError), running_node() as node:
        assert status(node.port).state == "running"
        raise ZeroDivisionError
    assert processes_of(world) == []
    assert list((world.layout.root / "instances").iterdir()) == []


def test_running_node_does_not_take_over(world) -> None:
    node = up(NodeSpec(port=free_port()))
    with pytest.raises(DarlError, match=rf"is already running on that port\. Darl node down --port {node.port}\."):
        with running_node(node.port):
            pass
    assert status(node.port).pid == node.pid


def test_a_killed_test_leaves_its_node_to_the_next(world) -> None:
    kept = up(NodeSpec(port=free_port()))
    with running_node() as mine:
        folder = world.layout.instance(mine.port)
        record = read_node_record(folder)
        assert record.owner_pid == os.getpid()
        write_node_record(folder, replace(record, owner_start="1"))  # our number, but another process: we were killed
        with running_node():
            assert status(mine.port).state == "stopped"
        assert not folder.exists()
    assert status(kept.port).state == "running"


def test_the_node_survives_ctrl_c_of_its_starter(world) -> None:
    node = up(NodeSpec(port=free_port()))
    assert os.getpgid(node.pid) == node.pid != os.getpgrp()
    assert os.getsid(node.pid) == node.pid


def test_a_killed_node_is_stopped_and_starts_again(world) -> None:
    node = up(NodeSpec(port=free_port()))
    os.killpg(node.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while status(node.port).state != "stopped" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert up(NodeSpec(port=node.port)).pid != node.pid


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"port": 0}, "port is 0. Give 1 to 65535."),
        ({"heap": "2x"}, "heap '2x': the heap is not a valid Java heap size. Write it as 2g or 1500m."),
        ({"engine": "podman"}, "engine is 'podman'. Choose auto, java or docker."),
    ],
)
def test_specs_that_make_no_sense(words, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        NodeSpec(**words)
    assert str(caught.value) == message


def test_possible_with_java(world) -> None:
    possible = node_possible()
    assert possible
    assert (possible.engine, possible.reason) == ("java", f"Java 21 at {world.jdk.home}")
    assert world.mvn_calls() == []


def test_impossible_names_both_ways(world, monkeypatch) -> None:
    monkeypatch.setenv("DARL_JAVA_HOME", str(world.folder))
    monkeypatch.setenv("PATH", str(world.folder))
    possible = node_possible()
    assert not possible
    assert possible.reason == (
        "neither Java nor Docker can run a node here. "
        f"java: no Java 21 or later (DARL_JAVA_HOME has no working java at {world.folder}). "
        "Install a JDK 21 or later, or set DARL_JAVA_HOME to one; "
        "or docker: docker is not on PATH. Install Docker."
    )
    with pytest.raises(DarlError, match="neither Java nor Docker"):
        up(NodeSpec(port=free_port()))


def test_the_end_of_a_log_starts_at_the_failure(tmp_path) -> None:
    log = tmp_path / "console.log"
    assert process.last_lines(log) == "no log"
    log.write_text("".join(f"[INFO ] {n}\n" for n in range(90)))
    assert process.last_lines(log, 2) == "[INFO ] 88 | [INFO ] 89"
    with log.open("a") as more:
        more.write("Exception: java failed\n\tat Main.java:1\n\nerror:\n  Could not reserve memory\n")
    assert process.last_lines(log) == "Exception: java failed | error: | Could not reserve memory"
