"""Training one model with several processes: collective operations, start, and failure handling.

Every process runs the same program on the same data. This module synchronises sums of gradients and of their
denominators, decisions, which the first process makes, and errors, which are printed once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import forkserver
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]  # public, but not in its __all__

from darl_opensearch.errors import DarlError, UsageError
from trainer.models.device import choose_device

T = TypeVar("T")

TIMEOUT = "DARL_PROCESS_TIMEOUT"  # seconds a process waits for the others before it gives up
STORE = "DARL_PROCESS_STORE"  # host:port of the store that `launch` keeps for its processes
DEFAULT_TIMEOUT = 3600.0
GRACE = 20.0  # seconds the others have to exit on their own once one has failed
# Loading torch and transformers takes ten CPU seconds, so processes are forked from one that has loaded them.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
LOADED_ONCE = ["torch", "transformers.models.auto.modeling_auto"]
REPORTED = "darl/said"  # set in the store once the first process has an error of its own to print


class PeerLost(DarlError):
    """Another process of the run has stopped or does not answer; any collective operation may raise it."""


def rank() -> int:
    """Number of this process, from 0; the first one writes files."""
    return dist.get_rank() if _is_joined() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_joined() else 1


def is_main() -> bool:
    """Tell whether this is the first process, which writes files and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if _is_joined():
        with _peers():
            _sum(torch.zeros(1))  # a sum on the CPU: torch's own barrier would take the GPU's backend


def broadcast(value: T) -> T:
    """Return the first process's value in every process.

    :param value: anything that can be pickled.
    """
    if not _is_joined():
        return value
    values = [value]
    with _peers():
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Overwrite tensors with the first process's.

    :param tensors: on the CPU, in the same order and of the same shapes in every process.
    """
    if not _is_joined():
        return
    with _peers():
        for tensor in tensors:
            dense = tensor.contiguous()
            dist.broadcast(dense, src=0)
            if dense is not tensor:
                tensor.copy_(dense)


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes, in place and bit for bit alike.

    :param tensor: of the same shape in every process.
    """
    if _is_joined():
        with _peers():
            _sum(tensor)
    return tensor


def gather(value: T) -> list[T]:
    """Return the values of all processes, in order, in the first one; an empty list in the others."""
    if not _is_joined():
        return [value]
    values: list[Any] | None = [None] * world() if is_main() else None
    with _peers():
        dist.gather_object(value, values, dst=0)
    return values or []


def main_first(work: Callable[[], T]) -> T:
    """Run something in the first process, then in the others, such as building a file that all read.

    :raises PeerLost: in the others, if the first one failed.
    """
    if not _is_joined():
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
    """Join the processes that ``torchrun`` or :func:`launch` started; a single process needs no group.

    Only the first process prints an error that all of them raise; the others exit by ``SystemExit`` with its exit
    code. An error of a single process is printed by that one, with its number.

    :param device: ``[stages] device``: on a GPU, each process has its own.
    :raises UsageError: if there are more processes than GPUs.
    :raises DarlError: the error of the work within.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _is_joined():
        yield
        return
    store, number, count, gpu = _join_group(device)
    try:
        yield
        barrier()
    except DarlError as err:
        raise _report_once(err, store, number, count) from err
    finally:
        if not gpu or sys.exc_info()[0] is None:  # after an error NCCL would wait for dead processes
            dist.destroy_process_group()


def _join_group(device: str) -> tuple[Any, int, int, bool]:
    limit = timedelta(seconds=_seconds())
    gpu = choose_device(device).type == "cuda"
    if gpu:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UsageError(f"process {local_rank + 1} has no GPU: this machine has {gpus}",
                             todo=f"start {gpus} processes, or set [stages] device to cpu")  # fmt: skip
        torch.cuda.set_device(local_rank)
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


def _report_once(err: DarlError, store: Any, number: int, count: int) -> BaseException:
    """Return the error for this process to print, or a silent exit if the first process prints it."""
    peer_lost = isinstance(err, PeerLost)
    if number == 0:
        if not peer_lost:
            store.set(REPORTED, "1")
        return err
    if peer_lost:
        return SystemExit(err.exit_code)
    try:
        store.wait([REPORTED], timedelta(seconds=GRACE / 4))
        return SystemExit(err.exit_code)
    except RuntimeError:  # the first process has no error, or its exit closed the store
        who = f"process {number + 1} of {count}"
        return type(err)(err.what, where=f"{who}: {err.where}" if err.where else who, todo=err.todo)


def launch(target: Callable[..., None], args: tuple[Any, ...], processes: int) -> None:
    """Start the processes of a run on this machine and wait for them.

    :param target: importable function that each runs; it calls :func:`join`, and exits by ``SystemExit``.
    :raises SystemExit: with the exit code of the process that failed first, which has printed its error.
    :raises DarlError: if a process was killed by a signal.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # hides how it ends the others
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: a free one
    multiprocessing.set_forkserver_preload(LOADED_ONCE)
    if START_METHOD == "forkserver":
        with _not_interrupted():
            forkserver.ensure_running()
    try:
        context: Any = start_processes(
            _process,
            (target, args, processes, store.port),
            nprocs=processes,
            join=False,
            start_method=START_METHOD,
        )
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
        # Ctrl-C in a terminal has interrupted all, who mind no second signal; others come to this process alone.
        for process in multiprocessing.active_children():
            process.terminate()
        for process in multiprocessing.active_children():
            process.join(GRACE)
            process.kill()
        raise


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Hold SIGINT back, for this process for now and for those that it starts until :func:`_end_with_parent`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when told to, without a traceback, or when the process that started it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Python's own handlers wait for what C code waits for
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE)
            os._exit(128 + signal.SIGTERM)  # the others of the group may be gone, and this one waits for them

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _process(number: int, target: Callable[..., None], args: tuple[Any, ...], processes: int, port: int) -> None:
    _end_with_parent()
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), STORE: f"127.0.0.1:{port}",
    }  # fmt: skip
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    code: object = 0
    try:
        target(*args)
    except SystemExit as err:
        code = err.code
    leave(code if isinstance(code, int) else int(code is not None))


def leave(code: int) -> NoReturn:
    """Exit at once: threads of gloo may outlive the group, and a regular exit would abort a process that has them."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sum(tensor: Tensor) -> None:
    dist.all_reduce(tensor, op=dist.ReduceOp.SUM)


@contextmanager
def _peers() -> Iterator[None]:
    """Translate errors of gloo and NCCL about a lost peer into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, dist.DistError) as err:  # a closed connection, or a timeout
        raise PeerLost(
            f"another process of this run has stopped or does not answer ({str(err).splitlines()[0][:120]})",
            todo=f"see its message, then run the same command again to resume; {TIMEOUT} sets how long to wait",
        ) from err
