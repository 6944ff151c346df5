"""The ``rerankers`` library: a ranker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result

from darl_opensearch.adapters.ranking import RankInput, RerankerSource, as_metadata, open_reranker, rank_documents
from darl_opensearch.errors import InputError


class DarlReranker(BaseRanker):
    """Reranks as the rankers of ``rerankers.Reranker`` do, in whose place it can be used.

    Results come best first; the metadata of their documents, which are copies, holds ``darl_grade``,
    ``darl_grade_name``, ``darl_grade_probs``, ``darl_ood_score``, ``darl_ood_distance`` and ``darl_is_ood``.
    Documents without text follow in their old order, with a rank and no score; with a threshold they are left out.

    :param reranker: a :class:`darl_opensearch.Reranker`, or the folder of a bundle.
    :param min_grade: return only documents of this grade or better, by its number or name.
    :param min_score: return only documents with this score or more, in [0, 1].
    :param drop_ood: return only documents that are in distribution.
    :raises BundleError: if the bundle is missing, incomplete or changed.
    """

    def __init__(
        self,
        reranker: RerankerSource,
        *,
        min_grade: int | str | None = None,
        min_score: float | None = None,
        drop_ood: bool = False,
    ) -> None:
        self.reranker = open_reranker(reranker)
        self.min_grade, self.min_score, self.drop_ood = min_grade, min_score, drop_ood

    def score(self, query: str, doc: str) -> float:
        """Score one text, in [0, 1]."""
        return self.reranker.rank(query, [doc])[0].score

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Rank texts or documents.

        :param doc_ids: their ids, instead of the documents' own; by default their places.
        :param metadata: their metadata, instead of the documents' own.
        :raises InputError: if there are not as many ids or metadata as documents, none of the documents has text, or
            the model has no such grade or score.
        """
        documents = _documents([docs] if isinstance(docs, str | Document) else docs, doc_ids, metadata)
        order = rank_documents(
            self.reranker, query, [RankInput(d.text, d.metadata, str(d.doc_id)) for d in documents],
            min_grade=self.min_grade, min_score=self.min_score, drop_ood=self.drop_ood,
        )  # fmt: skip
        results = []
        for rank, (place, ranked) in enumerate(order, start=1):
            documents[place].metadata |= as_metadata(ranked)
            results.append(Result(documents[place], score=ranked.score if ranked else None, rank=rank))
        return RankedResults(results, query, has_scores=True)

    async def rank_async(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Rank in a thread."""
        return await asyncio.to_thread(self.rank, query, docs, doc_ids, metadata)


def _documents(
    docs: Sequence[str | Document], doc_ids: Sequence[str] | Sequence[int] | None,
    metadata: Sequence[dict[str, Any]] | None,
) -> list[Document]:  # fmt: skip
    """Copy documents, with ids and metadata of their own; the library's helper changes those it is given."""
    for name, values in (("doc_ids", doc_ids), ("metadata", metadata)):
        if values is not None and len(values) != len(docs):
            raise InputError(f"{len(docs)} documents, but {len(values)} {name}", todo="pass one for each")
    copies = []
    for place, doc in enumerate(docs):
        given = doc if isinstance(doc, Document) else Document(doc)
        doc_id = given.doc_id if doc_ids is None else doc_ids[place]
        copies.append(
            Document(
                text=given.text,
                doc_id=place if doc_id is None else doc_id,
                metadata=dict(given.metadata if metadata is None else metadata[place]),
                document_type=given.document_type,
                image_path=given.image_path,
                base64=given.base64,
            )
        )
    return copies
