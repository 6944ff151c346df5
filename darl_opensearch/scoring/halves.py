"""Scoring by halves: each item encoded once and kept, the query once, then what meets.

The way of a bundle with ``encode.onnx`` and ``meet.onnx``. What is kept and what is missing take the same way: a
missing item is encoded, rounded to eight bits as it will be kept, and then met.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import MEET, OOD_SIDES, STATE_FILES, TOKENIZER, Bundle
from darl_opensearch.errors import BundleError
from darl_opensearch.graph_contract import ENCODE_INPUTS
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.encode import CappedTokenizer, TokenSequence, pad_batch
from darl_opensearch.scoring.runtime import GraphSession, open_session
from darl_opensearch.scoring.workers import Workers
from darl_opensearch.states import QUERY_LEVELS, ZERO, ItemState, StateKeys, StateStore, round_states

Floats = NDArray[np.float32]

MEET_TOKENS = 4096  # of items in one pass of meet.onnx, padding included
QUERIES_KEPT = 256  # encoded queries in memory
SIDES_KEPT = 200_000  # items whose part of the OOD distance is kept in memory, about 150 bytes each


class HalfScorer:
    """Scores the items of a query from their states.

    :param encode: the encoder of one half.
    :param store: where states are kept; shared with other scorers.
    :param int8: whether the encoder is the quantised one: then it reads items and queries one at a time.
    """

    def __init__(
        self, bundle: Bundle, encode: GraphSession, tokenizer: CappedTokenizer, store: StateStore, workers: Workers, *,
        int8: bool, token_budget: int,
    ) -> None:  # fmt: skip
        self.store, self._workers, self._tokens, self._encode = store, workers, tokenizer, encode.session
        self._path, self._width = str(bundle.path), bundle.card.columns.width
        self._meet = open_session(bundle.file(STATE_FILES[int8][0]), "cpu").session
        self._sides = open_session(bundle.file(OOD_SIDES), "cpu").session if OOD_SIDES in bundle.digests else None
        self._token_budget, self._at_once = token_budget, 1 if int8 else None
        card = bundle.card
        self.keys = StateKeys({
            "encoder": card.states["encoder"], "tokenizer": bundle.digests[TOKENIZER], "item_cap": card.item_cap,
            "engine": "onnxruntime", "precision": "int8" if int8 else "float32",
        })  # fmt: skip
        self._known_sides: OrderedDict[bytes, float] = OrderedDict()
        self._known_queries: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, query: str, items: Sequence[str], deadline: float | None = None) -> tuple[Floats, int]:
        """Score the items of one query.

        :return: ``[n, 3 + k]``, and the tokens of all pairs.
        :raises DeadlinePassed: when the deadline passes first.
        """
        if not items:
            return np.empty((0, self._width), dtype=np.float32), 0
        keys = [self.keys.of(text) for text in items]
        states = self.fill(dict(zip(keys, items, strict=True)), deadline)
        about_query = self._encode_query(query)
        sides = self._sides_of(states)
        lengths = [len(states[key].tokens) for key in keys]
        rows = np.empty((len(keys), self._width), dtype=np.float32)

        def meet(batch: NDArray[np.int64]) -> None:
            of_items = [keys[place] for place in batch]
            inputs = about_query | stack_states([states[key] for key in of_items])
            inputs["item_ood"] = np.array([sides.get(key, 0.0) for key in of_items], np.float32)
            scores = self._meet.run(None, inputs)[0]
            if scores.shape != (len(batch), rows.shape[1]):
                raise BundleError(
                    f"{MEET} answers {len(batch)} items with shape {scores.shape}, not {rows.shape[1]} columns each",
                    where=self._path, todo="run darl check on the bundle",
                )  # fmt: skip
            rows[batch] = scores

        most = max(1, -(-sum(lengths) // self._workers.threads))  # a share for each thread
        batches = plan_batches(lengths, token_budget=min(MEET_TOKENS, most + max([1, *lengths])))
        self._workers.run(meet, batches, deadline)
        return rows, sum(lengths) + len(lengths) * len(about_query["query_ids"])

    def fill(
        self, texts: Mapping[bytes, str], deadline: float | None = None, *, wait: bool = False
    ) -> dict[bytes, ItemState]:
        """Find the states of items, and encode and keep those that are missing.

        :param texts: by key.
        :param wait: wait until the store has taken what is new.
        """
        states = self.store.get(list(texts))
        if missing := [key for key in texts if key not in states]:
            encoded = self._encode_items(missing, [texts[key] for key in missing], deadline)
            self.store.put(encoded, wait=wait)
            states |= encoded
        return states

    def _encode_items(
        self, keys: Sequence[bytes], texts: Sequence[str], deadline: float | None
    ) -> dict[bytes, ItemState]:
        sequences = self._tokens.items(texts)
        states: dict[bytes, ItemState] = {}

        def encode(batch: NDArray[np.int64]) -> None:
            token_states, pooled = self._run_encoder([sequences[place] for place in batch])
            for row, place in enumerate(batch.tolist()):
                size = len(sequences[place].ids)
                content = self._tokens.are_content(sequences[place].ids)
                states[keys[place]] = ItemState.of(token_states[row, :size], content, pooled[row])

        batches = plan_batches([len(s.ids) for s in sequences], token_budget=self._token_budget, pairs=self._at_once)
        self._workers.run(encode, batches, deadline)
        return states

    def _encode_query(self, query: str) -> dict[str, NDArray[Any]]:
        """Make the query's inputs of ``meet.onnx``; those of the latest queries are kept."""
        with self._lock:
            if (kept := self._known_queries.get(query)) is not None:
                self._known_queries.move_to_end(query)
                return kept
        sequence = self._tokens.query(query)
        states, pooled = self._run_encoder([sequence])
        rounded, scales = round_states(states[0], QUERY_LEVELS)
        encoded = {
            "query_tokens": np.ascontiguousarray(rounded.T.astype(np.int8)), "query_scales": scales,
            "query_ids": np.array(sequence.ids, dtype=np.int64), "query_pooled": pooled[0],
            "query_ood": self._look(pooled)[:, 0] if self._sides else np.zeros(1, np.float32),
        }  # fmt: skip
        with self._lock:
            self._known_queries[query] = encoded
            while len(self._known_queries) > QUERIES_KEPT:
                self._known_queries.popitem(last=False)
        return encoded

    def _run_encoder(self, sequences: Sequence[TokenSequence]) -> tuple[Floats, Floats]:
        padded = pad_batch(sequences)
        states, pooled = self._encode.run(None, {name: padded[name] for name in ENCODE_INPUTS})
        return states, pooled

    def _sides_of(self, states: Mapping[bytes, ItemState]) -> dict[bytes, float]:
        """What each item adds to the OOD distance, computed once."""
        if self._sides is None:
            return {}
        with self._lock:
            sides = {key: side for key in states if (side := self._known_sides.get(key)) is not None}
        if missing := [key for key in states if key not in sides]:
            computed = self._look(np.stack([states[key].pooled for key in missing]))[:, 1].tolist()
            with self._lock:
                self._known_sides.update(zip(missing, computed, strict=True))
                while len(self._known_sides) > SIDES_KEPT:
                    self._known_sides.popitem(last=False)
            sides |= dict(zip(missing, computed, strict=True))
        return sides

    def _look(self, pooled: Floats) -> Floats:
        sides: Floats = self._sides.run(None, {"pooled": pooled})[0]  # type: ignore[union-attr]
        return sides


def stack_states(states: Sequence[ItemState]) -> dict[str, NDArray[Any]]:
    """Lay states side by side, padded with nothing: the item inputs of ``meet.onnx`` but ``item_ood``."""
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
