"""The model behind the routes: loads once, scores requests, feeds the OOD log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from darl_opensearch.bundle import Bundle
from darl_opensearch.ood import OodLog, RankedRequest
from darl_opensearch.scoring import CallerGone, Deadline, DeadlinePassed, Scorer
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.errors import ApiError
from darl_opensearch.server.limits import Admission
from darl_opensearch.server.metrics import Metrics
from darl_opensearch.server.wire import parse_request, render_response
from darl_opensearch.states import StateStore
from darl_opensearch.version import __version__

log = logging.getLogger(__name__)
T = TypeVar("T")


class Service:
    """A served model.

    :param spool: of the OOD log, for its page; None without.
    """

    def __init__(
        self, config: ServerConfig, bundle: Bundle, ood_log: OodLog | None = None, spool: Path | None = None
    ) -> None:
        self.config, self.bundle, self.spool = config, bundle, spool
        self.metrics = Metrics()
        self.admission = Admission(config.max_concurrent + config.max_queue, config.max_wait_ms / 1000)
        self.metrics.inside.set_function(lambda: self.admission.inside)
        self.on_failure: Callable[[], None] = lambda: None
        self.failure: BaseException | None = None
        self._ood_log = ood_log
        if ood_log is not None:
            self.metrics.watch_ood_log(ood_log.counters)
        self._scorer: Scorer | None = None
        self._states: StateStore | None = None
        self._started = time.monotonic()
        self._workers = ThreadPoolExecutor(config.max_concurrent, thread_name_prefix="darl-request")

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and warm."""
        return self._scorer is not None

    async def load(self) -> None:
        """Load and warm up the model; an error is kept in :attr:`failure` and reported to ``on_failure``."""
        try:
            self._scorer = await self._in_worker(self._open)
        except Exception as err:  # noqa: BLE001  a task cannot raise to its caller: the runner reads it from here
            self.failure = err
            self.on_failure()
            return
        self.metrics.ready.set(1)

    def _open(self) -> Scorer:
        config = self.config
        if self.bundle.has_states(int8=config.int8):
            self._states = StateStore(config.states, disk_bytes=config.states_bytes, memory_bytes=config.states_memory)
            self.metrics.watch_states(self._states.to_json)
        scorer = Scorer.open(
            self.bundle,
            states=self._states,
            provider=config.provider,
            threads=config.threads,
            int8=config.int8,
            token_budget=config.token_budget,
            require_provider=config.require_provider,
        )
        scorer.warm_up()
        card = self.bundle.card
        self.metrics.fallback.set(scorer.fallback is not None)
        self.metrics.model.info({"name": card.name, "version": card.version, "provider": scorer.provider})
        log.info(
            "%s %s is ready: %s, %d thread%s%s.",
            card.name, card.version, scorer.provider, scorer.threads, "s" * (scorer.threads > 1),
            ", int8" if scorer.int8 else "",
        )  # fmt: skip
        return scorer

    async def rerank(
        self, body: bytes, *, request_id: str, arrived: float, gone: Callable[[], Awaitable[None]]
    ) -> tuple[str, RankedRequest]:
        """Rank the documents of a request.

        :param arrived: ``time.monotonic()`` at its arrival.
        :param gone: waits until the caller closes the connection; scoring then stops.
        :return: the response body, and the request for the OOD log.
        :raises ApiError: if the request is invalid, its deadline has passed, or it would have to wait for too long.
        """
        scorer, limit = self.scorer(), self.config.deadline_ms
        deadline = Deadline(arrived + limit / 1000 if limit else None)

        async def watch_caller() -> None:
            await gone()
            deadline.cancel()

        watching = asyncio.create_task(watch_caller())
        try:
            with self.admission.wait_for(len(body)):
                answer, seconds = await self._in_worker(
                    lambda: self._rerank(scorer, body, request_id, arrived, deadline)
                )
        except DeadlinePassed as err:
            self.metrics.deadlines.inc()
            raise ApiError(503, err.what, todo=err.todo, retry_after=1) from err
        except CallerGone as err:
            self.metrics.abandoned.inc()
            raise ApiError(503, err.what) from err
        finally:
            watching.cancel()
        self.admission.observe(len(body), seconds)
        return answer

    def _rerank(
        self, scorer: Scorer, body: bytes, request_id: str, arrived: float, deadline: Deadline
    ) -> tuple[tuple[str, RankedRequest], float]:
        """Rank, and tell for how many seconds that keeps the whole machine busy."""
        deadline.check()  # the request may have waited for a worker
        started = time.thread_time()
        call = parse_request(body, scale=self.bundle.card.scale, max_documents=self.config.max_documents)
        self._check_chunks(scorer, call.documents)
        ranked = scorer.run(call.query, call.documents, deadline=deadline)
        self.metrics.observe_pass(ranked)
        answer = (
            render_response(call, ranked, self.bundle.card, request_id),
            RankedRequest(
                request_id=request_id,
                timestamp=datetime.now(UTC),
                query=call.query,
                query_id=call.query_id,
                slice=call.slice,
                doc_ids=call.doc_ids,
                documents=call.documents,
                scores=ranked.scores,
                latency_ms=1000 * (time.monotonic() - arrived),
                route="server",
            ),
        )
        return answer, (time.thread_time() - started + deadline.batch_seconds) / scorer.threads

    def _check_chunks(self, scorer: Scorer, documents: Sequence[str]) -> None:
        """Refuse more chunks than documents are allowed."""
        most, chunks = self.config.max_documents, len(scorer.chunk(documents)[0])
        if chunks > most:
            raise ApiError(
                413, f"{len(documents)} documents have {chunks} chunks, more than {most}", where="documents",
                todo="send fewer, or raise --max-documents",
            )  # fmt: skip

    def scorer(self) -> Scorer:
        """Return the scorer.

        :raises ApiError: 503 while the model is loading.
        """
        if self._scorer is None:
            raise ApiError(503, "the model is loading", todo="try again shortly", retry_after=1)
        return self._scorer

    async def log(self, ranked: RankedRequest) -> None:
        """Offer a request to the OOD log, without waiting."""
        if self._ood_log is not None and len(ranked.documents):
            self._ood_log.offer(ranked)

    def info(self) -> dict[str, Any]:
        """Describe model, grades, provider, limits and the state of the OOD log."""
        card, config, scorer = self.bundle.card, self.config, self._scorer
        return {
            "name": card.name,
            "version": card.version,
            "backbone": card.backbone,
            "identity": self.bundle.identity,
            "server": f"darl-opensearch {__version__}",
            "ready": self.ready,
            "uptime_s": time.monotonic() - self._started,
            "grades": [
                {"grade": grade, "name": name, "gain": gain}
                for grade, (name, gain) in enumerate(zip(card.scale.names, card.scale.gains, strict=True))
            ],
            "columns": list(card.columns.hit_fields()),
            "max_length": card.max_length,
            "chunks": card.template.chunks,
            "ood": {"alpha": card.ood.alpha, "detector": card.ood.detector, "features": card.ood.features},
            "provider": scorer.provider if scorer else None,
            "provider_asked": config.provider,
            "provider_fallback": scorer.fallback if scorer else None,
            "precision": "int8" if config.int8 else "fp32",
            "threads": scorer.threads if scorer else None,
            "token_budget": scorer.token_budget if scorer else None,
            "limits": {
                "max_documents": config.max_documents,
                "max_body_bytes": config.max_body_bytes,
                "max_concurrent": config.max_concurrent,
                "max_queue": config.max_queue,
                "max_wait_ms": config.max_wait_ms,
                "deadline_ms": config.deadline_ms,
                "rate_limit": config.rate_limit,
            },
            "states": self._states.to_json() if self._states is not None else None,
            "ood_log": self._ood_log.counters() if self._ood_log is not None else None,
        }

    def close(self) -> None:
        """Finish running requests and flush the OOD log."""
        self.metrics.ready.set(0)
        self._workers.shutdown(wait=True)
        if self._scorer is not None:
            self._scorer.close()
        if self._states is not None:
            self._states.close()
        if self._ood_log is not None:
            self._ood_log.close()

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)
