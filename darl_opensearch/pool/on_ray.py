"""The engine for many machines: Ray Data, with a pool of workers that open the bundle once.

One task reads the pool on the machine where the command runs, as a stream that waits for those who score; so only
that machine needs the pool and its items. Shards come back to it and are kept as the local engine keeps them. A
worker that dies is started again by Ray, and what it had in hand is computed again: a result that comes twice
replaces itself.
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
from darl_opensearch.pool.source import Source
from darl_opensearch.pool.work import Work
from darl_opensearch.pool.worker import FEATURES, SCORES, Job, ShardScorer
from darl_opensearch.scoring.cores import available_cores

MOST_ATTEMPTS = 3  # Ray itself would start a worker again for ever, for a shard that no worker can bear
# What is under way is a few MB a worker. No more than a container's /dev/shm may have to spare; Ray goes on in
# files where it has less.
_OBJECT_STORE_BYTES = 256 << 20
_SHARD, _PAIRS, _ERROR = "shard", "pairs", "error"

log = logging.getLogger(__name__)


class Attempts:
    """Counts how often each shard was begun, across the deaths of those who begin it."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Count.

        :return: how often it was begun, this time included.
        """
        self._begun[shard] += 1
        return self._begun[shard]


class RayWorker:
    """What Ray Data calls with each shard. It opens the bundle once, at the first of them.

    :param attempts: handle of an actor of :class:`Attempts`.
    """

    def __init__(self, job: Job, attempts: Any) -> None:
        self._job, self._attempts = job, attempts
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: Any) -> Any:
        """Compute one shard.

        :param batch: Arrow table of one row: number, shard as bytes, and the reader's error if it had one.
        :return: Arrow table of one row: number, content of each file, and an error if there is one.
        """
        number, error = batch[_SHARD][0].as_py(), batch[_ERROR][0].as_py()
        files: dict[str, bytes] = {}
        if error is None:
            try:
                shard = Shard.from_bytes(batch[_PAIRS][0].as_py())
                self._begin(shard)
                files = self.compute(shard)
            except DarlError as err:  # by value: Ray would make a traceback of it
                error = _error_to_json(err)
            except Exception as err:
                log.exception("shard %d", number)
                what = f"a worker failed ({type(err).__name__}: {_reason(err)})"
                error = _error_to_json(DarlError(what, where=socket.gethostname(), todo="see Ray's logs there"))
        return _row(number, {SCORES: files.get(SCORES), FEATURES: files.get(FEATURES)}, error)

    def compute(self, shard: Shard) -> dict[str, bytes]:
        """Compute a shard's files.

        :param shard: its pairs, texts looked up.
        :return: the content of the file of each part.
        """
        if self._scorer is None:
            self._scorer = ShardScorer(self._job)
        return self._scorer(shard)

    def _begin(self, shard: Shard) -> None:
        begun = load("ray", "ray").get(self._attempts.begin.remote(shard.index))
        if begun > MOST_ATTEMPTS:
            raise DarlError(
                f"the pairs {shard.start} to {shard.start + len(shard.pairs) - 1} ended their worker "
                f"{MOST_ATTEMPTS} times",
                where=shard.pairs[0].where,
                todo="see whether the workers' memory is enough, or lower --shard-pairs and start over",
            )


def run_on_ray(
    job: Job,
    source: Source,
    work: Work,
    done: Collection[int],
    on_shard: Callable[[int], None],
    *,
    address: str | None = None,
    workers: int | None = None,
    worker: type[RayWorker] = RayWorker,
) -> None:
    """Compute what is missing on a Ray cluster.

    A Ray that this process is connected to already is used, and left as it is.

    :param job: what to compute; ``threads`` are those of each worker, 1 unless given.
    :param work: where shards are kept, on this machine.
    :param done: numbers of those that are there.
    :param on_shard: told the number of each shard that was kept.
    :param address: a cluster that runs already, as ``ray.init`` takes it; None starts Ray on this machine.
    :param workers: how many workers; by default as many as there are cores, or GPUs, for.
    :raises MissingExtra: without the extra ``ray``.
    :raises DarlError: when Ray cannot be reached, a worker fails, or a shard ends its worker again and again.
    """
    load("pyarrow", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its C++ parts write to the terminal what is none of a user's business; what matters comes as an exception.
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
                    todo="run the same command again to go on behind the last finished shard",
                ) from err


@contextlib.contextmanager
def _connected(ray: ModuleType, address: str | None, *, cores: int) -> Iterator[str]:
    """Connect to a cluster, or start Ray on this machine and leave nothing of it; gives what to call it in errors."""
    if ray.is_initialized():
        yield "Ray"
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address is None:
            # Below the system's folder of temporary files: paths of its sockets may have no more than 107 characters.
            folder = tempfile.mkdtemp(prefix="darl-ray-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            quiet |= {"include_dashboard": False, "num_cpus": cores, "_temp_dir": folder}
            quiet["object_store_memory"] = _OBJECT_STORE_BYTES
        elif address.startswith("ray://"):
            raise UsageError(
                f"{address} is an address for clients outside of the cluster",
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
                todo="see ray status there" if address else "use --engine local, or see whether memory is free",
            ) from err
        yield address or "Ray"


def _knock(address: str | None) -> None:
    """See in seconds whether anybody listens; Ray would try for two minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _settings(data: ModuleType) -> Iterator[None]:
    """Set what Ray Data keeps for the whole process, and put it back."""
    context, theirs = data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {
        "target_max_block_size": 1,  # each shard is a block of its own, so that workers share them evenly
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    before, level = {name: getattr(context, name) for name in wanted}, theirs.level
    try:
        theirs.setLevel(logging.CRITICAL)
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        theirs.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def _datasource(data: ModuleType, source: Source, done: frozenset[int]) -> Any:
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


def _read(source: Source, done: frozenset[int]) -> Iterator[Any]:
    """Read the missing shards as Arrow tables of one row; an error is the last of them."""
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
    """How many workers the cluster has room for."""
    ((name, number),) = need.items()
    there = ray.cluster_resources().get(name.removeprefix("num_").removesuffix("s").upper(), 0)
    if (count := int(there // number)) < 1:
        raise DarlError(
            f"a worker needs {number} {name.removeprefix('num_')}, and there are {there:g}",
            where=where,
            todo="add machines, or ask for less by --threads or --provider",
        )
    return count


def _error_to_json(err: DarlError) -> str:
    return json.dumps({"kind": type(err).__name__, "what": err.what, "where": err.where, "todo": err.todo})


def _error_from_json(text: str) -> DarlError:
    told = json.loads(text)
    kind = getattr(errors, told.pop("kind"), DarlError)
    error: DarlError = kind(told.pop("what"), **told)
    return error


def _reason(err: BaseException) -> str:
    return one_line((str(err).strip().splitlines() or [type(err).__name__])[0])[:300]
