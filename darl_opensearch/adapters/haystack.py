"""Haystack: a ranker component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from darl_opensearch.adapters.ranking import RankInput, RerankerSource, as_metadata, open_reranker, rank_documents
from darl_opensearch.reranker import Reranker


@component
class DarlRanker:
    """Reranks documents in a Haystack pipeline.

    Documents come back as copies, best first: their ``score`` is the model's, and their ``meta`` holds
    ``previous_score`` (the retriever's), ``darl_grade``, ``darl_grade_name``, ``darl_grade_probs``, ``darl_ood_score``,
    ``darl_ood_distance`` and ``darl_is_ood``. Documents without text follow in their old order with the score None;
    with a threshold they are left out. Of documents with the same id, the one with the highest score is ranked.

    :param reranker: a :class:`darl_opensearch.Reranker`, or the folder of a bundle, which is opened by ``warm_up`` or
        the first run.
    :param top_k: documents to return; all by default.
    :param min_grade: return only documents of this grade or better, by its number or name.
    :param min_score: return only documents with this score or more, in [0, 1].
    :param drop_ood: return only documents that are in distribution.
    """

    def __init__(
        self,
        reranker: RerankerSource,
        *,
        top_k: int | None = None,
        min_grade: int | str | None = None,
        min_score: float | None = None,
        drop_ood: bool = False,
    ) -> None:
        self.reranker = reranker
        self.top_k, self.min_grade, self.min_score, self.drop_ood = top_k, min_grade, min_score, drop_ood
        self._opened: Reranker | None = None

    def warm_up(self) -> None:
        """Open the bundle.

        :raises BundleError: if it is missing, incomplete or changed.
        """
        if self._opened is None:
            self._opened = open_reranker(self.reranker)

    def close(self) -> None:
        """Close the reranker if it was opened here."""
        if self._opened is not None and self._opened is not self.reranker:
            self._opened.close()
        self._opened = None

    def to_dict(self) -> dict[str, Any]:
        """Serialise the component.

        :raises UsageError: if its reranker was given an opened OOD log or state store.
        """
        source = self.reranker
        source = source.options() if isinstance(source, Reranker) else source
        return default_to_dict(
            self,
            reranker=dict(source) if isinstance(source, dict) else str(source),
            top_k=self.top_k,
            min_grade=self.min_grade,
            min_score=self.min_score,
            drop_ood=self.drop_ood,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DarlRanker:
        """Make the component that :meth:`to_dict` serialised."""
        made: DarlRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rerank documents; an asynchronous pipeline does it in a thread.

        :param top_k: documents to return instead of the component's ``top_k``.
        :raises InputError: if none of the documents has text, or the model has no such grade or score.
        """
        self.warm_up()
        documents = _distinct(documents)
        order = rank_documents(
            open_reranker(self._opened or self.reranker), query,
            [RankInput(d.content, d.meta, d.id) for d in documents], top_n=self.top_k if top_k is None else top_k,
            min_grade=self.min_grade, min_score=self.min_score, drop_ood=self.drop_ood,
        )  # fmt: skip
        return {
            "documents": [
                replace(
                    documents[place],
                    score=ranked.score if ranked else None,
                    meta=documents[place].meta | {"previous_score": documents[place].score} | as_metadata(ranked),
                )
                for place, ranked in order
            ]
        }


def _distinct(documents: Sequence[Document]) -> list[Document]:
    best: dict[str, Document] = {}
    for document in documents:
        known = best.setdefault(document.id, document)
        if _score(document) > _score(known):
            best[document.id] = document
    return list(best.values())


def _score(document: Document) -> float:
    return -math.inf if document.score is None else document.score
