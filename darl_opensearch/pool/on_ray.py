"""The engine for many machines: Ray Data, with workers that open the bundle once.

One task streams the input from the machine where the command runs, with backpressure, in blocks (shards of a pool,
items to encode), so only that machine needs the input. Results return to it and are stored as by the local engine.
Ray restarts a worker that dies and computes its block again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar

from darl_opensearch import errors
from darl_opensearch.errors import DarlError, UsageError, load, one_line
from darl_opensearch.pool.engine import EngineOptions
from darl_opensearch.scoring import Provider
from darl_opensearch.scoring.cores import available_cores

MOST_ATTEMPTS = 3  # Ray itself would restart a worker forever for a block that kills it
# A few MB per worker are in flight. Sized for a container's /dev/shm; Ray falls back to files if it has less.
_OBJECT_STORE_BYTES = 256 << 20
_INDEX, _CONTENT, _ERROR = "index", "content", "error"

log = logging.getLogger(__name__)


class Block(Protocol):
    """What a worker computes at once; pickled on its way there."""

    @property
    def index(self) -> int:
        """Its number, from 0."""

    def killed_workers(self, count: int) -> DarlError:
        """Make the error for a block that killed its worker each time."""


B = TypeVar("B", bound=Block)
R = TypeVar("R")


class Attempts:
    """Counts attempts at each block across worker restarts."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Count an attempt; returns the number including this one."""
        self._counts[index] += 1
        return self._counts[index]


class RayWorker:
    """Computes blocks for Ray Data.

    :param open_compute: opens the bundle, at the first block, and returns the function of a block.
    :param attempts: handle of an actor of :class:`Attempts`.
    """

    def __init__(self, open_compute: Callable[[], Callable[[Any], Any]], attempts: Any) -> None:
        self._open_compute, self._attempts = open_compute, attempts
        self._compute: Callable[[Any], Any] | None = None

    def __call__(self, batch: Any) -> Any:
        """Compute one block.

        :param batch: Arrow table of one row: number, pickled block, and the reader's error or null.
        :return: Arrow table of one row: number, pickled result, and an error or null.
        """
        index, error = batch[_INDEX][0].as_py(), batch[_ERROR][0].as_py()
        content = None
        if error is None:
            try:
                block = pickle.loads(batch[_CONTENT][0].as_py())
                self._begin(block)
                content = pickle.dumps(self.compute(block))
            except DarlError as err:  # as a value: Ray would turn it into a traceback
                error = _error_to_json(err)
            except Exception as err:
                log.exception("block %d", index)
                what = f"a worker failed ({type(err).__name__}: {_reason(err)})"
                error = _error_to_json(DarlError(what, where=socket.gethostname(), todo="check Ray's logs there"))
        return _row(index, content, error)

    def compute(self, block: Any) -> Any:
        """Compute the result of a block."""
        if self._compute is None:
            self._compute = self._open_compute()
        return self._compute(block)

    def _begin(self, block: Block) -> None:
        attempt = load("ray", "ray").get(self._attempts.begin.remote(block.index))
        if attempt > MOST_ATTEMPTS:
            raise block.killed_workers(attempt - 1)


def run_on_ray(
    read: Callable[[], Iterator[B]],
    open_compute: Callable[[], Callable[[B], R]],
    on_result: Callable[[int, R], object],
    options: EngineOptions,
    *,
    provider: Provider,
    threads: int,
    worker: type[RayWorker] = RayWorker,
) -> None:
    """Compute blocks on a Ray cluster; an existing connection to Ray is used and left open.

    :param read: reads the blocks, in a task on this machine; like ``open_compute`` it is pickled.
    :param open_compute: opens the bundle in each worker, and returns the function of a block.
    :param on_result: called here with the number of each block and its result, in any order.
    :param threads: cores of each worker.
    :raises MissingExtra: without the extra ``ray``.
    :raises DarlError: if Ray cannot be reached, a worker fails, or a block keeps killing its worker.
    """
    load("pyarrow", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its C++ parts log to the terminal; errors that matter arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray, data = load("ray", "ray"), load("ray.data", "ray")
    cores = (options.workers or max(1, available_cores() // threads)) * threads
    with _connected(ray, options.address, cores=cores) as where:
        need = {"num_gpus": 1} if provider == "cuda" else {"num_cpus": threads}
        count = options.workers or count_workers(ray, need, where)
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        with _settings(data):
            blocks = data.read_datasource(_datasource(data, read), num_cpus=0, override_num_blocks=1)
            results = blocks.map_batches(
                worker,
                fn_constructor_args=(open_compute, attempts),
                batch_size=1,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=count),
                **need,
            )
            try:
                for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for row in table.to_pylist():
                        if row[_ERROR] is not None:
                            raise _error_from_json(row[_ERROR])
                        on_result(row[_INDEX], pickle.loads(row[_CONTENT]))
            except ray.exceptions.RayError as err:
                raise DarlError(
                    f"Ray gave up ({_reason(err)})",
                    where=where,
                    todo="run the same command again to resume",
                ) from err


@contextlib.contextmanager
def _connected(ray: ModuleType, address: str | None, *, cores: int) -> Iterator[str]:
    """Connect to a cluster, or start a temporary Ray on this machine; yields its name for errors."""
    if ray.is_initialized():
        yield "Ray"
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address is None:
            # In the system's temporary folder: paths of sockets are limited to 107 characters.
            folder = tempfile.mkdtemp(prefix="darl-ray-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            quiet |= {"include_dashboard": False, "num_cpus": cores, "_temp_dir": folder}
            quiet["object_store_memory"] = _OBJECT_STORE_BYTES
        elif address.startswith("ray://"):
            raise UsageError(
                f"{address} is an address for clients outside the cluster",
                todo="run this on a machine of the cluster with --address auto, or HOST:6379",
            )
        stack.callback(ray.shutdown)
        try:
            _knock(address)
            stopping = signal.getsignal(signal.SIGTERM)
            ray.init(address=address or "local", **quiet)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, stopping)  # Ray's own prints a stack and exits with 15
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
            raise DarlError(
                f"Ray cannot be {'reached' if address else 'started'} ({_reason(err)})",
                where=address or "Ray",
                todo="check ray status there" if address else "use --engine local, or free memory",
            ) from err
        yield address or "Ray"


def _knock(address: str | None) -> None:
    """Fail within seconds if nothing listens; Ray would try for two minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _settings(data: ModuleType) -> Iterator[None]:
    """Change Ray Data's process-wide settings, and restore them."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    settings = {
        "target_max_block_size": 1,  # one block of ours per block of Ray's, so that workers share them evenly
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    before, level = {name: getattr(context, name) for name in settings}, logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        for name, value in settings.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def _datasource(data: ModuleType, read: Callable[[], Iterator[Block]]) -> Any:
    block = load("ray.data.block", "ray")

    class Source(data.Datasource):  # type: ignore[name-defined, misc]
        """One task that streams the blocks."""

        @property
        def supports_distributed_reads(self) -> bool:
            return False  # the files are on this machine

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [data.ReadTask(functools.partial(_read, read), unknown)]

    return Source()


def _read(read: Callable[[], Iterator[Block]]) -> Iterator[Any]:
    """Read blocks as Arrow tables of one row; an error comes last."""
    try:
        for block in read():
            yield _row(block.index, pickle.dumps(block), None)
    except DarlError as err:
        yield _row(-1, None, _error_to_json(err))


def _row(index: int, content: bytes | None, error: str | None) -> Any:
    arrow = load("pyarrow", "ray")
    return arrow.table({
        _INDEX: arrow.array([index], arrow.int64()), _CONTENT: arrow.array([content], arrow.large_binary()),
        _ERROR: arrow.array([error], arrow.string()),
    })  # fmt: skip


def count_workers(ray: ModuleType, need: dict[str, int], where: str) -> int:
    """Count the workers that the cluster has room for."""
    ((name, number),) = need.items()
    capacity = ray.cluster_resources().get(name.removeprefix("num_").removesuffix("s").upper(), 0)
    if (count := int(capacity // number)) < 1:
        raise DarlError(
            f"a worker needs {number} {name.removeprefix('num_')}, but the cluster has {capacity:g}",
            where=where,
            todo="add machines, or lower --threads or change --provider",
        )
    return count


def _error_to_json(err: DarlError) -> str:
    return json.dumps({"kind": type(err).__name__, "what": err.what, "where": err.where, "todo": err.todo})


def _error_from_json(text: str) -> DarlError:
    fields = json.loads(text)
    kind = getattr(errors, fields.pop("kind"), DarlError)
    error: DarlError = kind(fields.pop("what"), **fields)
    return error


def _reason(err: BaseException) -> str:
    return one_line((str(err).strip().splitlines() or [type(err).__name__])[0])[:300]
