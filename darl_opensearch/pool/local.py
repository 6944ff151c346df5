"""The local engine: this process, on all its cores."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container

from darl_opensearch.pool.source import PairSource
from darl_opensearch.pool.work import ShardFolder
from darl_opensearch.pool.worker import PoolJob, ShardScorer


def run_local(
    job: PoolJob, source: PairSource, work: ShardFolder, done: Container[int], on_shard: Callable[[int], None]
) -> None:
    """Compute missing shards one by one, with one in memory.

    :param on_shard: called with the number of each stored shard.
    """
    with contextlib.closing(ShardScorer(job)) as scorer:
        for shard in source.shards(done):
            work.store(shard.index, scorer(shard))
            on_shard(shard.index)
