"""The engine for many machines: Ray Data, with workers that open the bundle once.

One task streams the pool from the machine where the command runs, with backpressure, so only that machine needs the
pool and its items. Shards return to it and are stored as by the local engine. Ray restarts a worker that dies and
computes its shard again; a shard that arrives twice is simply overwritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any

from darl_opensearch import errors
from darl_opensearch.errors import DarlError, UsageError, load, one_line
from darl_opensearch.pool.pairs import Shard
from darl_opensearch.pool.source import PairSource
from darl_opensearch.pool.work import ShardFolder
from darl_opensearch.pool.worker import FEATURES, SCORES, PoolJob, ShardScorer
from darl_opensearch.scoring.cores import available_cores

MOST_ATTEMPTS = 3  # Ray itself would restart a worker forever for a shard that kills it
# A few MB per worker are in flight. Sized for a container's /dev/shm; Ray falls back to files if it has less.
_OBJECT_STORE_BYTES = 256 << 20
_SHARD, _PAIRS, _ERROR = "shard", "pairs", "error"

log = logging.getLogger(__name__)


class Attempts:
    """Counts attempts at each shard across worker restarts."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Count an attempt; returns the number including this one."""
        self._counts[shard] += 1
        return self._counts[shard]


class RayWorker:
    """Computes shards for Ray Data; opens the bundle at the first one.

    :param attempts: handle of an actor of :class:`Attempts`.
    """

    def __init__(self, job: PoolJob, attempts: Any) -> None:
        self._job, self._attempts = job, attempts
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: Any) -> Any:
        """Compute one shard.

        :param batch: Arrow table of one row: number, shard as bytes, and the reader's error or null.
        :return: Arrow table of one row: number, content of each file, and an error or null.
        """
        number, error = batch[_SHARD][0].as_py(), batch[_ERROR][0].as_py()
        files: dict[str, bytes] = {}
        if error is None:
            try:
                shard = Shard.from_bytes(batch[_PAIRS][0].as_py())
                self._begin(shard)
                files = self.compute(shard)
            except DarlError as err:  # as a value: Ray would turn it into a traceback
                error = _error_to_json(err)
            except Exception as err:
                log.exception("shard %d", number)
                what = f"a worker failed ({type(err).__name__}: {_reason(err)})"
                error = _error_to_json(DarlError(what, where=socket.gethostname(), todo="check Ray's logs there"))
        return _row(number, {SCORES: files.get(SCORES), FEATURES: files.get(FEATURES)}, error)

    def compute(self, shard: Shard) -> dict[str, bytes]:
        """Compute the content of a shard's files, by part."""
        if self._scorer is None:
            self._scorer = ShardScorer(self._job)
        return self._scorer(shard)

    def _begin(self, shard: Shard) -> None:
        attempt = load("ray", "ray").get(self._attempts.begin.remote(shard.index))
        if attempt > MOST_ATTEMPTS:
            raise DarlError(
                f"pairs {shard.start} to {shard.start + len(shard.pairs) - 1} killed their worker {attempt - 1} times",
                where=shard.pairs[0].where,
                todo="check the workers' memory, or lower --shard-pairs and start over",
            )


def run_on_ray(
    job: PoolJob,
    source: PairSource,
    work: ShardFolder,
    done: Collection[int],
    on_shard: Callable[[int], None],
    *,
    address: str | None = None,
    workers: int | None = None,
    worker: type[RayWorker] = RayWorker,
) -> None:
    """Compute missing shards on a Ray cluster; an existing connection to Ray is used and left open.

    :param job: what to compute; ``threads`` is per worker, 1 by default.
    :param work: where shards are stored, on this machine.
    :param on_shard: called with the number of each stored shard.
    :param address: a running cluster, as for ``ray.init``; None starts Ray on this machine.
    :param workers: by default as many as there are cores or GPUs for.
    :raises MissingExtra: without the extra ``ray``.
    :raises DarlError: if Ray cannot be reached, a worker fails, or a shard keeps killing its worker.
    """
    load("pyarrow", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its C++ parts log to the terminal; errors that matter arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray, data = load("ray", "ray"), load("ray.data", "ray")
    threads = job.threads or 1
    with _connected(ray, address, cores=(workers or max(1, available_cores() // threads)) * threads) as where:
        need = {"num_gpus": 1} if job.provider == "cuda" else {"num_cpus": threads}
        count = workers or count_workers(ray, need, where)
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        with _settings(data):
            shards = data.read_datasource(_datasource(data, source, frozenset(done)), num_cpus=0, override_num_blocks=1)
            results = shards.map_batches(
                worker,
                fn_constructor_args=(dataclasses.replace(job, threads=threads), attempts),
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
                        work.store(row[_SHARD], row)
                        on_shard(row[_SHARD])
            except ray.exceptions.RayError as err:
                raise DarlError(
                    f"Ray gave up ({_reason(err)})",
                    where=where,
                    todo="run the same command again to resume after the last finished shard",
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
            ray.init(address=address or "local", **quiet)
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
        "target_max_block_size": 1,  # one shard per block, so that workers share them evenly
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


def _datasource(data: ModuleType, source: PairSource, done: frozenset[int]) -> Any:
    block = load("ray.data.block", "ray")

    class Pool(data.Datasource):  # type: ignore[name-defined, misc]
        """One task that streams the missing shards."""

        @property
        def supports_distributed_reads(self) -> bool:
            return False  # the files are on this machine

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [data.ReadTask(functools.partial(_read, source, done), unknown)]

    return Pool()


def _read(source: PairSource, done: frozenset[int]) -> Iterator[Any]:
    """Read missing shards as Arrow tables of one row; an error comes last."""
    try:
        for shard in source.shards(done):
            yield _row(shard.index, {_PAIRS: shard.to_bytes()}, None)
    except DarlError as err:
        yield _row(-1, {_PAIRS: None}, _error_to_json(err))


def _row(shard: int, files: dict[str, bytes | None], error: str | None) -> Any:
    arrow = load("pyarrow", "ray")
    binary = {name: arrow.array([content], arrow.large_binary()) for name, content in files.items()}
    return arrow.table(
        {_SHARD: arrow.array([shard], arrow.int64()), **binary, _ERROR: arrow.array([error], arrow.string())}
    )


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
