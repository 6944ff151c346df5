"""Scoring a query's documents."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import MODEL, MODEL_INT8, Bundle
from darl_opensearch.errors import BundleError, DarlError, InputError, UsageError
from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.scores import Scores
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.cores import available_cores
from darl_opensearch.scoring.deadline import check_deadline
from darl_opensearch.scoring.encode import PairEncoder, pad_batch
from darl_opensearch.scoring.runtime import GraphSession, Provider, open_session

if TYPE_CHECKING:
    from tokenizers import Encoding

CPU_TOKEN_BUDGET = 512
CUDA_TOKEN_BUDGET = 32_768  # a GPU wants few, large passes


@dataclass(frozen=True)
class Pass:
    """Scores of one query's documents, with token count and times.

    :param tokens: tokens of all pairs, without padding.
    :param forward_ms: time from first to last batch, including waits for other requests' batches.
    """

    scores: Scores
    tokens: int
    tokenize_ms: float
    forward_ms: float


class Scorer:
    """Scores query-document pairs with a bundle's graph. Threads may share one; make it with :meth:`open`.

    A pair's score does not depend on its batch: fp32 scores vary by float noise only (1e-6), and the int8 graph,
    which quantises activations per batch, scores one pair per pass.

    :param threads: batches scored at the same time.
    :param token_budget: most tokens of a batch, padding included.
    :param int8: whether the graph is the quantised one.
    """

    def __init__(self, bundle: Bundle, graph: GraphSession, *, threads: int, token_budget: int, int8: bool) -> None:
        self.bundle = bundle
        self.threads, self.token_budget, self.int8 = threads, token_budget, int8
        self._graph = graph
        self._pairs = 1 if int8 else None
        self._encoder = PairEncoder(bundle.tokenizer, bundle.card.max_length)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="darl-score")
        self._closed = threading.Event()

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | os.PathLike[str],
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        int8: bool = False,
        token_budget: int | None = None,
        require_provider: bool = False,
    ) -> Scorer:
        """Load a bundle's graph.

        :param bundle: an opened bundle or its folder.
        :param provider: ``cpu`` or ``cuda``; without a usable GPU the CPU is used, with a warning.
        :param threads: batches scored in parallel on the CPU; by default one per core.
        :param token_budget: most tokens of a batch, padding included; 512 on the CPU, 32768 on a GPU.
        :param require_provider: fail rather than fall back to the CPU.
        :raises UsageError: when a number is out of range.
        :raises BundleError: when the graph is not what the contract says.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if provider not in ("cpu", "cuda"):
            raise UsageError(f"there is no provider {provider!r}", todo="use cpu or cuda")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}", todo="use 1 or more")
        if token_budget is not None and token_budget < 1:
            raise UsageError(f"the token budget is {token_budget}", todo="use 1 or more, 512 is usual")
        model = bundle.file(MODEL_INT8 if int8 else MODEL)
        graph = open_session(model, provider, require_provider=require_provider)
        _check_contract(graph.session, bundle, str(model))
        on_gpu = graph.provider == "cuda"
        return cls(
            bundle,
            graph,
            threads=1 if on_gpu else threads or available_cores(),
            token_budget=token_budget or (CUDA_TOKEN_BUDGET if on_gpu else CPU_TOKEN_BUDGET),
            int8=int8,
        )

    @property
    def provider(self) -> Provider:
        """Where the graph actually runs: ``cpu`` or ``cuda``."""
        return self._graph.provider

    @property
    def fallback(self) -> str | None:
        """Why :attr:`provider` is not the one asked for, or None."""
        return self._graph.fallback

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Score the documents of one query.

        :param documents: texts of items, rendered as in ``darl_text``.
        :return: one row per document, in the order passed.
        """
        return self.run(query, documents).scores

    def score_many(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[Scores]:
        """Score several queries in shared batches.

        :param requests: pairs of a query and its documents.
        :return: the scores of each request, in order.
        """
        encodings = [encoding for query, documents in requests for encoding in self._encode(query, documents)]
        rows = self._forward(encodings, None)
        ends = np.cumsum([len(documents) for _, documents in requests], dtype=np.int64)
        return [Scores(part, self._alpha) for part in np.split(rows, ends[:-1])] if requests else []

    def run(self, query: str, documents: Sequence[str], *, deadline: float | None = None) -> Pass:
        """Score the documents of one query; returns token counts and times as well.

        :param deadline: ``time.monotonic()`` value after which no further batch starts.
        :raises DeadlinePassed: when the deadline passes first.
        """
        started = time.perf_counter()
        encodings = self._encode(query, documents)
        encoded = time.perf_counter()
        rows = self._forward(encodings, deadline)
        done = time.perf_counter()
        return Pass(
            scores=Scores(rows, self._alpha),
            tokens=sum(len(e.ids) for e in encodings),
            tokenize_ms=1000 * (encoded - started),
            forward_ms=1000 * (done - encoded),
        )

    def warm_up(self) -> None:
        """Score one pair, so that the first request does not pay for one-time set-up.

        :raises BundleError: when the graph does not run.
        """
        try:
            self.score("warm up", ["the first pass allocates memory"])
        except DarlError:
            raise
        except Exception as err:  # ONNX Runtime's exceptions share no base class
            raise BundleError(
                f"the graph does not run ({' '.join(str(err).split())[:300]})",
                where=str(self.bundle.path),
                todo="run darl check on the bundle",
            ) from err

    def close(self) -> None:
        """Stop the threads; later calls raise UsageError."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _alpha(self) -> float:
        return self.bundle.card.ood.alpha

    def _encode(self, query: str, documents: Sequence[str]) -> list[Encoding]:
        if not isinstance(query, str):
            raise InputError(f"the query is a {type(query).__name__}, not text", todo="pass a str")
        if isinstance(documents, str):
            raise InputError("documents is one text", todo="pass a list of texts")
        for place, text in enumerate(documents):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise InputError(f"document {place} is a {kind}, not text", todo="render items by bundle.renderer")
        return self._encoder(query, documents) if documents else []

    def _forward(self, encodings: Sequence[Encoding], deadline: float | None) -> NDArray[np.float32]:
        if self._closed.is_set():
            raise UsageError("the scorer is closed", todo="open another")
        rows = np.empty((len(encodings), self.bundle.card.columns.width), dtype=np.float32)
        waiting = deque(
            plan_batches([len(e.ids) for e in encodings], token_budget=self.token_budget, pairs=self._pairs)
        )
        running: set[Future[None]] = set()

        def score_batch(batch: NDArray[np.int64]) -> None:
            inputs = pad_batch([encodings[i] for i in batch])
            scores = self._graph.session.run(None, inputs)[0]
            if scores.shape != (len(batch), rows.shape[1]):  # a graph need not declare its width
                raise BundleError(
                    f"the graph answers {len(batch)} pairs with shape {scores.shape}, not {rows.shape[1]} columns each",
                    where=str(self.bundle.path),
                    todo="run darl check on the bundle",
                )
            rows[batch] = scores

        try:
            while waiting or running:
                # At most two batches per thread are queued: requests take turns, and a list of ten need not wait
                # for a list of a thousand.
                while waiting and len(running) < 2 * self.threads:
                    check_deadline(deadline)
                    running.add(self._pool.submit(score_batch, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # running batches still write into `rows`
        return rows


def _check_contract(session: Any, bundle: Bundle, where: str) -> None:
    inputs = tuple(i.name for i in session.get_inputs())
    outputs = [(o.name, (o.shape or [0])[-1]) for o in session.get_outputs()]  # a dynamic size is a name
    width = outputs[0][1] if len(outputs) == 1 else 0
    if inputs != INPUTS or (isinstance(width, int) and width != bundle.card.columns.width):
        raise BundleError(
            f"the graph maps {', '.join(inputs)} to {outputs}, "
            f"not {', '.join(INPUTS)} to one output of {bundle.card.columns.width} columns",
            where=where,
            todo="export the model again",
        )
