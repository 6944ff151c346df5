"""Scoring the documents of a query."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import MODEL, MODEL_DATA, MODEL_INT8, Bundle
from darl_opensearch.errors import BundleError, DarlError, InputError, UsageError
from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.scores import Scores, join_chunks
from darl_opensearch.scoring.batching import CPU_PASS_TOKENS, plan_batches
from darl_opensearch.scoring.cores import available_cores
from darl_opensearch.scoring.deadline import Deadline
from darl_opensearch.scoring.encode import CappedTokenizer, TokenSequence, pad_batch
from darl_opensearch.scoring.halves import HalfScorer
from darl_opensearch.scoring.runtime import GraphSession, Provider, open_session
from darl_opensearch.scoring.workers import Workers
from darl_opensearch.states import StateStore

CPU_TOKEN_BUDGET = 512
CUDA_TOKEN_BUDGET = 32_768  # a GPU wants few, large passes


@dataclass(frozen=True)
class Pass:
    """Scores of one query's documents, with token count and times.

    :param tokens: tokens of all pairs, without padding.
    :param chunks: texts that were scored: as many as documents, or more where long items are scored in chunks.
    :param forward_ms: time from first to last batch, including waits for other requests' batches.
    """

    scores: Scores
    tokens: int
    chunks: int
    tokenize_ms: float
    forward_ms: float


class Scorer:
    """Scores query-document pairs with a bundle's graphs. Threads may share one; make it with :meth:`open`.

    A pair's score does not depend on its batch: fp32 scores vary by float noise only (1e-6), and the int8 graphs,
    which quantise activations per batch, read one sequence per pass.

    :param graph: reads pairs, or with ``halves`` queries and items.
    :param halves: scores from item states; None: pairs are scored by the graph.
    :param token_budget: maximum tokens per batch, including padding.
    :param pass_tokens: what a pass costs beside them, see :func:`~darl_opensearch.scoring.batching.plan_batches`.
    :param int8: whether the graph is quantised.
    """

    def __init__(
        self, bundle: Bundle, graph: GraphSession, tokenizer: CappedTokenizer, workers: Workers,
        halves: HalfScorer | None, *, token_budget: int, pass_tokens: int | None, int8: bool,
    ) -> None:  # fmt: skip
        self.bundle, self.token_budget, self.int8 = bundle, token_budget, int8
        self._pass_tokens = pass_tokens
        self.halves = halves
        self._graph, self._tokenizer, self._workers = graph, tokenizer, workers
        self._pairs_at_once = 1 if int8 else None

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
        states: StateStore | None = None,
    ) -> Scorer:
        """Load a bundle's graphs.

        :param bundle: an opened bundle or its folder.
        :param provider: ``cpu`` or ``cuda``; without a usable GPU the CPU is used, with a warning.
        :param threads: batches scored in parallel on the CPU; by default one per core.
        :param token_budget: maximum tokens per batch, including padding; by default 512 on the CPU, 32768 on a GPU.
        :param require_provider: fail instead of falling back to the CPU.
        :param states: store of item states, so that an item is encoded once and not for every query; a bundle without
            graphs for them is scored pair by pair. The quantised graph of the split backbone always needs states:
            without a store they are kept in memory.
        :raises UsageError: if a number is out of range.
        :raises BundleError: if a graph violates the contract.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if provider not in ("cpu", "cuda"):
            raise UsageError(f"there is no provider {provider!r}", todo="use cpu or cuda")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}", todo="use 1 or more")
        if token_budget is not None and token_budget < 1:
            raise UsageError(f"the token budget is {token_budget}", todo="use 1 or more, 512 is usual")
        if not bundle.has_states(int8=int8):
            states = None
        elif states is None and int8 and MODEL_INT8 not in bundle.digests:
            states = StateStore(None)
        pair_graph = MODEL_INT8 if int8 else MODEL
        model = bundle.file(pair_graph if states is None else bundle.state_files(int8=int8)[1])
        graph = open_session(model, provider, require_provider=require_provider)
        on_gpu = graph.provider == "cuda"
        budget = token_budget or (CUDA_TOKEN_BUDGET if on_gpu else CPU_TOKEN_BUDGET)
        pass_tokens = None if on_gpu else CPU_PASS_TOKENS
        workers = Workers(1 if on_gpu else threads or available_cores())
        tokenizer = CappedTokenizer(bundle.tokenizer, bundle.card.query_cap, bundle.card.item_cap)
        halves = None
        if states is not None:
            halves = HalfScorer(
                bundle, graph, tokenizer, states, workers, int8=int8, token_budget=budget, pass_tokens=pass_tokens
            )
        else:
            _check_contract(graph.session, bundle, str(model))
        return cls(bundle, graph, tokenizer, workers, halves, token_budget=budget, pass_tokens=pass_tokens, int8=int8)

    @property
    def files(self) -> tuple[str, ...]:
        """The bundle's files that scores depend on, besides the tokenizer; the first computes them."""
        if self.halves is not None:
            return self.bundle.state_files(int8=self.int8)
        return (MODEL_INT8 if self.int8 else MODEL, MODEL_DATA)

    @property
    def graph(self) -> str:
        """The graph that computes the scores."""
        return self.files[0]

    @property
    def threads(self) -> int:
        """Batches scored in parallel."""
        return self._workers.threads

    @property
    def provider(self) -> Provider:
        """Where the encoder actually runs: ``cpu`` or ``cuda``."""
        return self._graph.provider

    @property
    def fallback(self) -> str | None:
        """Why :attr:`provider` is not the requested one, or None."""
        return self._graph.fallback

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Score the documents of one query.

        :param documents: item texts, rendered as in :attr:`darl_opensearch.bundle.Card.text_field`.
        :return: one row per document, in order; of a document with several chunks, the row of its best-scoring one.
        """
        return self.run(query, documents).scores

    def score_many(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[Scores]:
        """Score several queries in shared batches.

        :param requests: queries, each with its documents.
        """
        if self.halves:
            return [self.score(query, documents) for query, documents in requests]
        chunked = [(query, *self.chunk(documents)) for query, documents in requests]
        sequences = [pair for query, texts, _ in chunked for pair in self._tokenize(query, texts)]
        # Batches do not depend on the number of threads here: a file of pairs gets the same scores, to the last digit.
        scored = self._forward(sequences, None, threads=1)
        rows = join_chunks(scored, [size for _, _, sizes in chunked for size in sizes])
        ends = np.cumsum([len(documents) for _, documents in requests], dtype=np.int64)
        return [Scores(request_rows, self._alpha) for request_rows in np.split(rows, ends[:-1])] if requests else []

    def run(self, query: str, documents: Sequence[str], *, deadline: Deadline | float | None = None) -> Pass:
        """Score the documents of one query; returns token counts and times as well.

        :param deadline: after which no further batch starts; a number is a ``time.monotonic()`` value.
        :raises DeadlinePassed: if the deadline passes first.
        :raises CallerGone: if it is cancelled first.
        """
        started = time.perf_counter()
        deadline = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
        texts, sizes = self.chunk(documents)
        if self.halves:
            _check_query(query)
            rows, tokens = self.halves.score(query, texts, deadline)
            scores = Scores(join_chunks(rows, sizes), self._alpha)
            return Pass(scores, tokens, len(texts), 0.0, 1000 * (time.perf_counter() - started))
        sequences = self._tokenize(query, texts)
        tokenized = time.perf_counter()
        rows = self._forward(sequences, deadline, threads=self.threads)
        return Pass(
            scores=Scores(join_chunks(rows, sizes), self._alpha),
            tokens=sum(len(s.ids) for s in sequences),
            chunks=len(texts),
            tokenize_ms=1000 * (tokenized - started),
            forward_ms=1000 * (time.perf_counter() - tokenized),
        )

    def chunk(self, documents: Sequence[str]) -> tuple[Sequence[str], Sequence[int]]:
        """Cut documents into the texts that are scored.

        :return: texts, document by document, and the number of each document's.
        """
        _check_texts(documents)
        if self.bundle.card.template.chunks == 1:
            return documents, [1] * len(documents)
        chunks = [self.bundle.renderer.chunks(text) for text in documents]
        return [text for parts in chunks for text in parts], [len(parts) for parts in chunks]

    def warm_up(self) -> None:
        """Score one pair, so that one-time set-up does not slow the first request.

        :raises BundleError: if the graph does not run.
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
        """Stop the threads; later calls raise UsageError. The state store stays open."""
        self._workers.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _alpha(self) -> float:
        return self.bundle.card.ood.alpha

    def _tokenize(self, query: str, texts: Sequence[str]) -> list[TokenSequence]:
        _check_query(query)
        return self._tokenizer.pairs(query, texts) if texts else []

    def _forward(
        self, sequences: Sequence[TokenSequence], deadline: Deadline | None, *, threads: int
    ) -> NDArray[np.float32]:
        rows = np.empty((len(sequences), self.bundle.card.columns.width), dtype=np.float32)

        def score_batch(batch: NDArray[np.int64]) -> None:
            scores = self._graph.session.run(None, pad_batch([sequences[i] for i in batch]))[0]
            if scores.shape != (len(batch), rows.shape[1]):  # a graph need not declare its width
                raise BundleError(
                    f"the graph answers {len(batch)} pairs with shape {scores.shape}, not {rows.shape[1]} columns each",
                    where=str(self.bundle.path),
                    todo="run darl check on the bundle",
                )
            rows[batch] = scores

        lengths = [len(s.ids) for s in sequences]
        batches = plan_batches(
            lengths, token_budget=self.token_budget, pairs=self._pairs_at_once, pass_tokens=self._pass_tokens,
            threads=threads,
        )  # fmt: skip
        self._workers.run(score_batch, batches, deadline)
        return rows


def _check_query(query: str) -> None:
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__}, not text", todo="pass a str")


def _check_texts(documents: Sequence[str]) -> None:
    if isinstance(documents, str):
        raise InputError("documents is one text", todo="pass a list of texts")
    for place, text in enumerate(documents):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InputError(f"document {place} is a {kind}, not text", todo="render items by bundle.renderer")


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
