"""Scoring from item states: ``encode.onnx`` encodes each item once, and ``meet.onnx`` scores it with a query.

A score does not depend on whether a state was stored: a missing item is encoded and rounded to eight bits, as it will
be stored, before it is scored.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import MEET, Bundle
from darl_opensearch.errors import BundleError
from darl_opensearch.graph_contract import ENCODE_INPUTS
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.deadline import Deadline
from darl_opensearch.scoring.encode import CappedTokenizer, TokenSequence, pad_batch
from darl_opensearch.scoring.runtime import GraphSession, open_session
from darl_opensearch.scoring.workers import Workers
from darl_opensearch.states import QUERY_LEVELS, ZERO, ItemState, StateKeys, StateStore, round_states

Floats = NDArray[np.float32]
K = TypeVar("K")
V = TypeVar("V")

MEET_TOKENS = 4096  # maximum item tokens per pass of meet.onnx, including padding
QUERIES_KEPT = 256  # encoded queries in memory
SIDES_KEPT = 200_000  # items whose part of the OOD distance is in memory, about 150 bytes each


class HalfScorer:
    """Scores the items of a query from their states.

    :param encode: the encoder, for queries and items.
    :param store: item states, shared with other scorers.
    :param int8: whether the encoder is quantised, and so reads one sequence per pass.
    """

    def __init__(
        self, bundle: Bundle, encode: GraphSession, tokenizer: CappedTokenizer, store: StateStore, workers: Workers, *,
        int8: bool, token_budget: int, pass_tokens: int | None,
    ) -> None:  # fmt: skip
        self.store, self._workers, self._tokens, self._encode = store, workers, tokenizer, encode.session
        self._path, self._width = str(bundle.path), bundle.card.columns.width
        meet, _, sides = bundle.state_files(int8=int8)
        self._meet = open_session(bundle.file(meet), "cpu").session
        self._sides = open_session(bundle.file(sides), "cpu").session if sides in bundle.digests else None
        self._token_budget, self._pass_tokens, self._at_once = token_budget, pass_tokens, 1 if int8 else None
        self._query_prompt, self._item_prompt = tokenizer.prompts
        self.keys = StateKeys.of_bundle(bundle, int8=int8)
        self._side_cache: OrderedDict[bytes, float] = OrderedDict()
        self._query_cache: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, query: str, items: Sequence[str], deadline: Deadline | None = None) -> tuple[Floats, int]:
        """Score the items of one query.

        :return: ``[n, 3 + k]``, and the number of tokens of all pairs.
        :raises DeadlinePassed: if the deadline passes first.
        """
        if not items:
            return np.empty((0, self._width), dtype=np.float32), 0
        keys = [self.keys.of(text) for text in items]
        states = self.fill(dict(zip(keys, items, strict=True)), deadline)
        query_inputs = self.encode_query(query)
        sides = self._compute_sides(states)
        lengths = [len(states[key].tokens) for key in keys]
        rows = np.empty((len(keys), self._width), dtype=np.float32)

        def meet(batch: NDArray[np.int64]) -> None:
            batch_keys = [keys[place] for place in batch]
            inputs = query_inputs | stack_states([states[key] for key in batch_keys])
            inputs["item_ood"] = np.array([sides.get(key, 0.0) for key in batch_keys], np.float32)
            scores = self._meet.run(None, inputs)[0]
            if scores.shape != (len(batch), rows.shape[1]):
                raise BundleError(
                    f"{MEET} answers {len(batch)} items with shape {scores.shape}, not {rows.shape[1]} columns each",
                    where=self._path, todo="run darl check on the bundle",
                )  # fmt: skip
            rows[batch] = scores

        batches = plan_batches(lengths, token_budget=MEET_TOKENS, threads=self._workers.threads)
        self._workers.run(meet, batches, deadline)
        framing = len(query_inputs["query_ids"]) + self._query_prompt + self._item_prompt
        return rows, sum(lengths) + len(lengths) * framing

    def fill(
        self, texts: Mapping[bytes, str], deadline: Deadline | None = None, *, wait: bool = False
    ) -> dict[bytes, ItemState]:
        """Look up the states of items; encode and store missing ones.

        :param texts: by key.
        :param wait: wait until the store has written new states.
        """
        states = self.store.get(list(texts))
        if missing := [key for key in texts if key not in states]:
            encoded = self._encode_items(missing, [texts[key] for key in missing], deadline)
            self.store.put(encoded, wait=wait)
            states |= encoded
        return states

    def _encode_items(
        self, keys: Sequence[bytes], texts: Sequence[str], deadline: Deadline | None
    ) -> dict[bytes, ItemState]:
        sequences = self._tokens.items(texts)
        states: dict[bytes, ItemState] = {}

        def encode(batch: NDArray[np.int64]) -> None:
            token_states, pooled = self._run_encoder([sequences[place] for place in batch])
            for row, place in enumerate(batch.tolist()):
                ids = sequences[place].ids
                rows, content = token_states[row, : len(ids)], self._tokens.are_content(ids)
                rows, content = (_drop_prompt(values, self._item_prompt) for values in (rows, content))
                states[keys[place]] = ItemState.of(rows, content, pooled[row])

        batches = plan_batches(
            [len(s.ids) for s in sequences], token_budget=self._token_budget, pairs=self._at_once,
            pass_tokens=self._pass_tokens, threads=self._workers.threads,
        )  # fmt: skip
        self._workers.run(encode, batches, deadline)
        return states

    def encode_query(self, query: str) -> dict[str, NDArray[Any]]:
        """Make the query's inputs of ``meet.onnx``; those of the latest queries are cached."""
        with self._lock:
            if (cached := self._query_cache.get(query)) is not None:
                self._query_cache.move_to_end(query)
                return cached
        sequence = self._tokens.query(query)
        states, pooled = self._run_encoder([sequence])
        rounded, scales = round_states(_drop_prompt(states[0], self._query_prompt), QUERY_LEVELS)
        encoded = {
            "query_tokens": np.ascontiguousarray(rounded.T.astype(np.int8)), "query_scales": scales,
            "query_ids": _drop_prompt(np.array(sequence.ids, dtype=np.int64), self._query_prompt),
            "query_pooled": pooled[0],
            "query_ood": self._run_sides(pooled)[:, 0] if self._sides else np.zeros(1, np.float32),
        }  # fmt: skip
        self._cache(self._query_cache, {query: encoded}, QUERIES_KEPT)
        return encoded

    def _run_encoder(self, sequences: Sequence[TokenSequence]) -> tuple[Floats, Floats]:
        padded = pad_batch(sequences)
        states, pooled = self._encode.run(None, {name: padded[name] for name in ENCODE_INPUTS})
        return states, pooled

    def _compute_sides(self, states: Mapping[bytes, ItemState]) -> dict[bytes, float]:
        """Compute each item's part of the OOD distance, or look it up; empty unless the detector adds parts."""
        if self._sides is None:
            return {}
        with self._lock:
            sides = {key: side for key in states if (side := self._side_cache.get(key)) is not None}
        if missing := [key for key in states if key not in sides]:
            rows = self._run_sides(np.stack([states[key].pooled for key in missing]))
            computed = dict(zip(missing, rows[:, 1].tolist(), strict=True))
            self._cache(self._side_cache, computed, SIDES_KEPT)
            sides |= computed
        return sides

    def _cache(self, cache: OrderedDict[K, V], entries: Mapping[K, V], most: int) -> None:
        with self._lock:
            cache.update(entries)
            while len(cache) > most:
                cache.popitem(last=False)

    def _run_sides(self, pooled: Floats) -> Floats:
        sides: Floats = self._sides.run(None, {"pooled": pooled})[0]  # type: ignore[union-attr]
        return sides


def _drop_prompt(rows: NDArray[Any], prompt: int) -> NDArray[Any]:
    """Leave out the prompt's tokens, which have no weight among the token similarities.

    :param rows: ``[s, …]``, of the tokens of a half.
    :param prompt: number of the prompt's tokens, after the first token.
    """
    return np.delete(rows, np.s_[1 : 1 + prompt], axis=0) if prompt else rows


def stack_states(states: Sequence[ItemState]) -> dict[str, NDArray[Any]]:
    """Stack states, padded: the item inputs of ``meet.onnx`` except ``item_ood``."""
    count, width, hidden = len(states), max(len(s.tokens) for s in states), states[0].tokens.shape[1]
    tokens = np.full((count, width, hidden), ZERO, np.uint8)
    scales, mask, content = (np.zeros((count, width), np.float32) for _ in range(3))
    for row, state in enumerate(states):
        size = len(state.tokens)
        tokens[row, :size], scales[row, :size] = state.tokens, state.scales
        mask[row, :size], content[row, :size] = 1.0, state.content
    return {
        "item_tokens": tokens, "item_scales": scales, "item_mask": mask, "item_content": content,
        "item_pooled": np.stack([state.pooled for state in states]),
    }  # fmt: skip
