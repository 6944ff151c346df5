"""The engine that needs nothing else: this process, on the cores it has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container

from darl_opensearch.pool.source import Source
from darl_opensearch.pool.work import Work
from darl_opensearch.pool.worker import Job, ShardScorer


def run_local(job: Job, source: Source, work: Work, done: Container[int], on_shard: Callable[[int], None]) -> None:
    """Compute what is missing, one shard after the other. No more than one is in memory.

    :param done: numbers of those that are there.
    :param on_shard: told the number of each shard that was kept.
    """
    with contextlib.closing(ShardScorer(job)) as scorer:
        for shard in source.shards(done):
            work.store(shard.index, scorer(shard))
            on_shard(shard.index)
