"""What all adapters do: a library's documents in, their new order and what the model says of them out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.reranker import RankedDocument, Reranker
from darl_opensearch.scores import Thresholds
from darl_opensearch.text import ID_FIELD

RerankerSource = Reranker | str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class RankInput:
    """A document as libraries hold one.

    :param text: its content, if it has any.
    :param metadata: its other fields.
    :param id: identifies it in the OOD log, if neither the template's id field nor ``darl_id`` is in the metadata.
    """

    text: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


def open_reranker(source: RerankerSource) -> Reranker:
    """Open a reranker unless it is one already.

    :param source: a reranker, the folder of a bundle, or a reranker's ``options()``.
    :raises BundleError: if the bundle is missing, incomplete or changed.
    """
    if isinstance(source, Reranker):
        return source
    if isinstance(source, Mapping):
        return Reranker(**source)
    if isinstance(source, str | os.PathLike):
        return Reranker(source)
    raise UsageError(f"a reranker cannot be made of a {type(source).__name__}", todo="pass the folder of a bundle")


def rank_documents(
    reranker: Reranker, query: str, documents: Sequence[RankInput], *, top_n: int | None = None,
    min_grade: int | str | None = None, min_score: float | None = None, drop_ood: bool = False,
) -> list[tuple[int, RankedDocument | None]]:  # fmt: skip
    """Rank documents. Their text is ``darl_text`` in the metadata, else their own, else the template's of the metadata.

    As in ``Reranker.rerank``, documents without text follow the scored ones in their old order, with None; with a
    threshold they are left out.

    :return: places in ``documents``, best first.
    :raises InputError: if none of the documents has text, or the model has no such grade or score.
    """
    card = reranker.bundle.card
    texts = [_text(reranker.bundle, document) for document in documents]
    places = [place for place, text in enumerate(texts) if text is not None]
    if documents and not places:
        raise InputError(
            f"none of the {len(documents)} documents has text", where=f"ranking for {query!r}",
            todo=f"give them content, or {card.text_field!r} or the fields of the bundle's template as metadata",
        )  # fmt: skip
    id_field = card.template.id_field
    items = [{card.text_field: texts[place], id_field: _id(documents[place], id_field)} for place in places]
    limits = {"min_grade": min_grade, "min_score": min_score, "drop_ood": drop_ood}
    ranked = reranker.rank(query, items, top_n=top_n, **limits)  # type: ignore[arg-type]
    order: list[tuple[int, RankedDocument | None]] = [(places[document.index], document) for document in ranked]
    if Thresholds.of(card.scale, **limits) == Thresholds():
        order += [(place, None) for place, text in enumerate(texts) if text is None]
    return order[:top_n]


def as_metadata(document: RankedDocument | None) -> dict[str, Any]:
    """Name what the model says of a document, as search hits do; nothing for one without text."""
    if document is None:
        return {}
    return {
        "darl_grade": document.grade,
        "darl_grade_name": document.grade_name,
        "darl_grade_probs": list(document.grade_probs),
        "darl_ood_score": document.ood_score,
        "darl_ood_distance": document.ood_distance,
        "darl_is_ood": document.is_ood,
    }


def _text(bundle: Bundle, document: RankInput) -> str | None:
    text = document.metadata.get(bundle.card.text_field) or document.text
    if isinstance(text, str) and text:
        return text
    try:
        return bundle.renderer(document.metadata)
    except InputError:
        return None


def _id(document: RankInput, id_field: str) -> str:
    return str(document.metadata.get(id_field) or document.metadata.get(ID_FIELD) or document.id or "")
