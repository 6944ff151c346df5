"""LlamaIndex: a node postprocessor."""

from __future__ import annotations

from typing import Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from darl_opensearch.adapters.pydantic_fields import RerankerField
from darl_opensearch.adapters.ranking import RankInput, as_metadata, rank_documents
from darl_opensearch.errors import UsageError
from darl_opensearch.reranker import RankedDocument


class DarlNodePostprocessor(BaseNodePostprocessor):
    """Reranks what a LlamaIndex retriever found.

    Nodes come back as copies, best first: their ``score`` is the model's, and their metadata holds ``previous_score``
    (the retriever's), ``darl_grade``, ``darl_grade_name``, ``darl_grade_probs``, ``darl_ood_score``,
    ``darl_ood_distance`` and ``darl_is_ood``, which are kept out of prompts and embeddings. The model reads a node's
    text without its metadata, as it did in training. Nodes without text follow in their old order with the score None;
    with a threshold they are left out.

    :param reranker: a :class:`darl_opensearch.Reranker`, or the folder of a bundle.
    :param top_n: nodes to return; all by default.
    :param min_grade: return only nodes of this grade or better, by its number or name.
    :param min_score: return only nodes with this score or more, in [0, 1].
    :param drop_ood: return only nodes that are in distribution.
    :raises BundleError: if the bundle is missing, incomplete or changed.
    """

    reranker: RerankerField
    top_n: int | None = None
    min_grade: int | str | None = None
    min_score: float | None = None
    drop_ood: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised pipelines."""
        return "DarlNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise UsageError("nodes cannot be ranked without a query", todo="pass query_str or query_bundle")
        query = query_bundle.query_str
        inputs = [
            RankInput(node.node.get_content(MetadataMode.NONE), node.node.metadata, node.node.node_id) for node in nodes
        ]
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.reranker.bundle.card.name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            order = rank_documents(
                self.reranker, query, inputs, top_n=self.top_n, min_grade=self.min_grade, min_score=self.min_score,
                drop_ood=self.drop_ood,
            )  # fmt: skip
            ranked = [_with_scores(nodes[place], document) for place, document in order]
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked


def _with_scores(found: NodeWithScore, document: RankedDocument | None) -> NodeWithScore:
    node: BaseNode = found.node
    added = {"previous_score": found.score, **as_metadata(document)}
    hidden = {
        name: [*getattr(node, name), *(key for key in added if key not in getattr(node, name))]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    copy = node.model_copy(update={"metadata": node.metadata | added, **hidden})
    return NodeWithScore(node=copy, score=document.score if document else None)
