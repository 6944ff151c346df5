"""sentence-transformers: ``predict`` and ``rank`` as its ``CrossEncoder`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.adapters.ranking import RerankerSource, open_reranker
from darl_opensearch.errors import InputError, UsageError, short


class DarlCrossEncoder:
    """Scores and ranks as ``sentence_transformers.CrossEncoder`` does, in whose place it can be used.

    The scores are the model's, in [0, 1]. Batches are the scorer's own: ``batch_size`` and ``show_progress_bar`` are
    accepted and change nothing.

    :param reranker: a :class:`darl_opensearch.Reranker`, or the folder of a bundle.
    :raises BundleError: if the bundle is missing, incomplete or changed.
    """

    def __init__(self, reranker: RerankerSource) -> None:
        self.reranker = open_reranker(reranker)

    def predict(
        self, inputs: Sequence[Sequence[str]] | Sequence[str], *, batch_size: int | None = None,
        show_progress_bar: bool | None = None, convert_to_numpy: bool = True, convert_to_tensor: bool = False,
    ) -> NDArray[np.float32] | np.float32:  # fmt: skip
        """Score pairs.

        :param inputs: pairs of query and document, or one pair.
        :return: ``[n]`` scores, or one score for one pair.
        :raises InputError: if an input is not a pair of texts.
        :raises UsageError: if tensors are asked for.
        """
        if convert_to_tensor or not convert_to_numpy:
            raise UsageError("scores are a numpy array", todo="make a tensor of it by torch.from_numpy")
        single = len(inputs) == 2 and all(isinstance(text, str) for text in inputs)
        pairs: Sequence[Any] = [inputs] if single else inputs
        by_query: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InputError(f"input {place} is {short(pair)}, not a pair of texts", todo="pass (query, document)")
            by_query.setdefault(pair[0], []).append(place)
        scores = np.empty(len(pairs), dtype=np.float32)
        for query, places in by_query.items():
            for document in self.reranker.rank(query, [pairs[place][1] for place in places]):
                scores[places[document.index]] = document.score
        return np.float32(scores[0]) if single else scores

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False,
        *, batch_size: int | None = None, show_progress_bar: bool | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Rank the documents of one query.

        :param top_k: documents to return; all by default.
        :param return_documents: return each document as ``text``.
        :return: best first, with ``corpus_id``, ``score``, ``grade``, ``grade_name``, ``grade_probs``, ``ood_score``,
            ``ood_distance`` and ``is_ood``.
        """
        return [
            {
                "corpus_id": document.index,
                "score": document.score,
                **({"text": documents[document.index]} if return_documents else {}),
                "grade": document.grade,
                "grade_name": document.grade_name,
                "grade_probs": list(document.grade_probs),
                "ood_score": document.ood_score,
                "ood_distance": document.ood_distance,
                "is_ood": document.is_ood,
            }
            for document in self.reranker.rank(query, documents, top_n=top_k)
        ]
