"""Several processes that train one model: who writes, who waits, and what becomes of the others when one dies.

Every process runs the same program on the same data. What has to agree goes through here: sums of gradients and of
what they are averaged over, decisions (the first process's word counts), and errors, which are said once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]  # public, but not in its __all__

from darl_opensearch.errors import DarlError, UsageError
from trainer.models.device import choose

T = TypeVar("T")

TIMEOUT = "DARL_PROCESS_TIMEOUT"  # seconds a process waits for the others before it gives up
STORE = "DARL_PROCESS_STORE"  # host:port of the store that `launch` keeps for its processes
DEFAULT_TIMEOUT = 3600.0
GRACE = 20.0  # seconds the others have to leave on their own once one is gone
# Loading torch and transformers takes ten seconds of a core; the processes of a machine share one that has done so.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
LOADED_ONCE = ["torch", "transformers.models.auto.modeling_auto"]
SAID = "darl/said"  # set in the store once the first process has an error of its own to print


class PeerLost(DarlError):
    """Another process of the run is gone, or does not answer."""


def rank() -> int:
    """Number of this process.

    :return: 0 for the first, which is the one that writes.
    """
    return dist.get_rank() if _together() else 0


def world() -> int:
    """Number of processes.

    :return: 1 where this one trains alone.
    """
    return dist.get_world_size() if _together() else 1


def is_main() -> bool:
    """Tell whether this process writes files and reports.

    :return: true in the first process, and where there is only one.
    """
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here.

    :raises PeerLost: when one is gone.
    """
    if _together():
        with _peers():
            _sum(torch.zeros(1))  # a sum on the CPU: torch's own barrier would take the GPU's backend


def broadcast(value: T) -> T:
    """Take the first process's word.

    :param value: anything that can be pickled; only the first process's counts.
    :return: the first process's value, in every process.
    :raises PeerLost: when a process is gone.
    """
    if not _together():
        return value
    values = [value]
    with _peers():
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Overwrite tensors with the first process's.

    :param tensors: on the CPU, in the same order and of the same shapes in every process.
    :raises PeerLost: when a process is gone.
    """
    if not _together():
        return
    with _peers():
        for tensor in tensors:
            dense = tensor.contiguous()
            dist.broadcast(dense, src=0)
            if dense is not tensor:
                tensor.copy_(dense)


def total(tensor: Tensor) -> Tensor:
    """Sum over the processes.

    :param tensor: of the same shape in every process; changed in place.
    :return: the same tensor, holding the sum, with the same bits everywhere.
    :raises PeerLost: when a process is gone.
    """
    if _together():
        with _peers():
            _sum(tensor)
    return tensor


def gather(value: T) -> list[T]:
    """Show the first process what each one has.

    :return: every process's value in the first process, in order; in the others nothing.
    :raises PeerLost: when a process is gone.
    """
    if not _together():
        return [value]
    values: list[Any] | None = [None] * world() if is_main() else None
    with _peers():
        dist.gather_object(value, values, dst=0)
    return values or []


def main_first(work: Callable[[], T]) -> T:
    """Have the first process do something before the others do it, such as build a file that all read.

    :raises PeerLost: in the others, when the first one failed.
    """
    if not _together():
        return work()
    done = False
    if is_main():
        try:
            result = work()
            done = True
        finally:
            broadcast(done)
        return result
    if not broadcast(done):
        raise PeerLost("the first process has stopped", todo="see its message")
    return work()


@contextmanager
def join(device: str = "auto") -> Iterator[None]:
    """Join the other processes that ``torchrun`` or :func:`launch` started; alone, nothing happens.

    An error that every process runs into is said by the first one only; the others leave by ``SystemExit`` with
    its exit code. What only one of them ran into, it says itself, with its number.

    :param device: ``[stages] device``: on a GPU, each process has its own.
    :yield: nothing; within, :func:`rank` and the others answer.
    :raises UsageError: when there are more processes than GPUs.
    :raises DarlError: the error of the work within.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _together():
        yield
        return
    store, number, count, gpu = _join_group(device)
    try:
        yield
        barrier()
    except DarlError as err:
        raise _said_once(err, store, number, count) from err
    finally:
        if not gpu or sys.exc_info()[0] is None:  # after an error NCCL would wait for the dead
            dist.destroy_process_group()


def _join_group(device: str) -> tuple[Any, int, int, bool]:
    limit = timedelta(seconds=_seconds())
    gpu = choose(device).type == "cuda"
    if gpu:
        place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= there:
            raise UsageError(f"process {place + 1} has no GPU: this machine has {there}",
                             todo=f"start {there} processes, or set [stages] device to cpu")  # fmt: skip
        torch.cuda.set_device(place)
    if address := os.environ.get(STORE):
        host, _, port = address.rpartition(":")
        store: Any = TCPStore(host, int(port), is_master=False, timeout=limit)
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    else:
        with _peers():
            store, number, count = next(iter(rendezvous("env://", timeout=limit)))
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    with _peers():
        dist.init_process_group(
            backend, store=PrefixStore("group", store), rank=number, world_size=count, timeout=limit
        )
    return store, number, count, gpu


def _seconds() -> float:
    text = os.environ.get(TIMEOUT, str(DEFAULT_TIMEOUT))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{TIMEOUT} is {text!r}", todo="give a number of seconds, such as 3600")
    return value


def _said_once(err: DarlError, store: Any, number: int, count: int) -> BaseException:
    """The error as this process is to say it, or a silent exit where the first process says it."""
    lost = isinstance(err, PeerLost)
    if number == 0:
        if not lost:
            store.set(SAID, "1")
        return err
    if lost:
        return SystemExit(err.exit_code)
    try:
        store.wait([SAID], timedelta(seconds=GRACE / 4))
        return SystemExit(err.exit_code)
    except RuntimeError:  # the first process has none, or took the store with it
        who = f"process {number + 1} of {count}"
        return type(err)(err.what, where=f"{who}: {err.where}" if err.where else who, todo=err.todo)


def launch(target: Callable[..., None], args: tuple[Any, ...], processes: int) -> None:
    """Start the processes of a run on this machine and wait for them.

    :param target: what each runs, by name importable; it exits by ``SystemExit``, and joins by :func:`join`.
    :raises SystemExit: with the exit code of the process that failed first, which has said why.
    :raises DarlError: when a process was ended by a signal.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # how it ends the others is no news
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: a free one
    multiprocessing.set_forkserver_preload(LOADED_ONCE)
    context: Any = start_processes(
        _process,
        (target, args, processes, store.port),
        nprocs=processes,
        join=False,
        start_method=START_METHOD,
    )
    try:
        while not context.join(grace_period=GRACE):
            pass
    except ProcessExitedException as err:
        if not err.signal_name:
            raise SystemExit(err.exit_code) from err
        raise PeerLost(
            f"process {err.error_index + 1} of {processes} was ended by {err.signal_name}",
            todo="run the same command again to resume from the last checkpoint; if memory ran out (SIGKILL), start "
            "fewer processes or lower [stages] batch_queries",
        ) from err
    except KeyboardInterrupt:
        for process in context.processes:
            process.join(GRACE)
        raise


def _process(number: int, target: Callable[..., None], args: tuple[Any, ...], processes: int, port: int) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), STORE: f"127.0.0.1:{port}",
    }  # fmt: skip
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on this machine: nothing has to leave it
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    code: object = 0
    try:
        target(*args)
    except SystemExit as err:
        code = err.code
    leave(code if isinstance(code, int) else int(code is not None))


def leave(code: int) -> NoReturn:
    """End this process at once.

    Threads of gloo may outlive the group, and the interpreter's own way out aborts a process that still has them.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sum(tensor: Tensor) -> None:
    dist.all_reduce(tensor, op=dist.ReduceOp.SUM)


@contextmanager
def _peers() -> Iterator[None]:
    """Say in one line what gloo and NCCL say in many when a peer is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, dist.DistError) as err:  # a closed connection, or a timeout
        raise PeerLost(
            f"another process of this run has stopped or does not answer ({str(err).splitlines()[0][:120]})",
            todo=f"see its message, then run the same command again to resume; {TIMEOUT} sets how long to wait",
        ) from err
