"""What a process started ends with it, even if it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from darl_opensearch.node import NodeSpec, process, running_node, status, up
from darl_opensearch.node.guard import ExitGuard
from darl_opensearch.node.ports import free_port

SLEEP = ["sleep", "60"]


def fork(work: Callable[[], object]) -> tuple[int, str]:
    """Run work in a process of its own, which then waits; return its number and what the work returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, str(work()).encode())
            os.close(write)
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert said, "it failed"
    return pid, said


def end(pid: int, number: int) -> None:
    os.kill(pid, number)
    os.waitpid(pid, 0)


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def start_sleeping(tmp_path) -> tuple[int, str]:
    pid, state = process.start(SLEEP, env=dict(os.environ), cwd=tmp_path, log=tmp_path / "log", account=None)
    return pid, state.start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_guarded_process_ends_with_its_owner(tmp_path, number) -> None:
    def work() -> int:
        pid, start = start_sleeping(tmp_path)
        work.guard = ExitGuard.of_process(pid, start)
        return pid

    owner, child = fork(work)
    assert process.look(int(child)) is not None
    end(owner, number)
    wait_until(lambda: process.look(int(child)) is None)


def test_another_process_of_the_same_number_is_left_alone(tmp_path) -> None:
    pid, start = start_sleeping(tmp_path)
    try:

        def work() -> int:
            work.guard = ExitGuard.of_process(pid, "1")  # it started at another time
            return work.guard._child.pid

        owner, guard = fork(work)
        end(owner, signal.SIGKILL)
        wait_until(lambda: process.look(int(guard)) is None)
        assert process.look(pid).start == start
    finally:
        process.stop(pid, 1)


def test_a_dismissed_guard_ends_nothing(tmp_path) -> None:
    pid, start = start_sleeping(tmp_path)
    try:
        guard = ExitGuard.of_process(pid, start)
        guard.dismiss()
        assert process.look(guard._child.pid) is None and process.look(pid).start == start
    finally:
        process.stop(pid, 1)


def test_a_killed_process_leaves_no_node_and_no_folder(world) -> None:
    """The node of ``darl node up`` stays, whoever started it."""
    kept = free_port()

    def work() -> str:
        work.node = running_node()
        return f"{work.node.__enter__().pid} {up(NodeSpec(port=kept)).pid}"

    owner, pids = fork(work)
    mine, other = map(int, pids.split())
    assert process.look(mine) and process.look(other)
    end(owner, signal.SIGKILL)
    instances = world.layout.root / "instances"
    wait_until(lambda: [folder.name for folder in instances.iterdir()] == [str(kept)])
    assert process.look(mine) is None
    assert status(kept).pid == other
