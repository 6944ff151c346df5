"""LangChain: a document compressor."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from darl_opensearch.adapters.pydantic_fields import RerankerField
from darl_opensearch.adapters.ranking import RankInput, as_metadata, rank_documents


class DarlDocumentCompressor(BaseDocumentCompressor):
    """Reranks what a LangChain retriever found, for instance in a ``ContextualCompressionRetriever``.

    Documents come back as copies, best first, with ``relevance_score``, ``darl_grade``, ``darl_grade_name``,
    ``darl_grade_probs``, ``darl_ood_score``, ``darl_ood_distance`` and ``darl_is_ood`` in their metadata. Documents
    without text follow in their old order and without these; with a threshold they are left out.

    :param reranker: a :class:`darl_opensearch.Reranker`, or the folder of a bundle.
    :param top_n: documents to return; all by default.
    :param min_grade: return only documents of this grade or better, by its number or name.
    :param min_score: return only documents with this score or more, in [0, 1].
    :param drop_ood: return only documents that are in distribution.
    :raises BundleError: if the bundle is missing, incomplete or changed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: RerankerField
    top_n: int | None = None
    min_grade: int | str | None = None
    min_score: float | None = None
    drop_ood: bool = False

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank documents; ``acompress_documents`` does it in a thread.

        :param callbacks: not used.
        :raises InputError: if none of the documents has text, or the model has no such grade or score.
        """
        order = rank_documents(
            self.reranker, query, [RankInput(d.page_content, d.metadata, d.id) for d in documents], top_n=self.top_n,
            min_grade=self.min_grade, min_score=self.min_score, drop_ood=self.drop_ood,
        )  # fmt: skip
        return [
            documents[place].model_copy(
                update={
                    "metadata": documents[place].metadata
                    | ({"relevance_score": ranked.score} if ranked else {})
                    | as_metadata(ranked)
                }
            )
            for place, ranked in order
        ]
