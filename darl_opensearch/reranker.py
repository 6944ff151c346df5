"""Reranking texts, items or a search response in Python, without ML Commons."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.connect import NO_PIPELINE
from darl_opensearch.errors import BundleError, InputError, UsageError
from darl_opensearch.ood.log import OodLog
from darl_opensearch.ood.record import RankedRequest
from darl_opensearch.scores import Scores, Thresholds
from darl_opensearch.scoring import Provider, Scorer
from darl_opensearch.states import StateStore
from darl_opensearch.text import ID_FIELD, TEXT_FIELD

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

DELIMITER_SCORE = -4e9  # neural-search marks a hybrid query's raw results with rows that score -9.5e9 and -4.4e9


@dataclass(frozen=True)
class RankedDocument:
    """A document and its scores, as returned by ``Reranker.rank``.

    :param index: its place in the documents that were passed, from 0.
    :param score: expected gain over the highest gain, in [0, 1].
    :param grade: the most probable grade, 0 for the lowest.
    :param grade_name: the grade's name in the bundle.
    :param grade_probs: probability of each grade, lowest first.
    :param ood_score: 1 minus the conformal p-value; the pair is out of distribution at ``1 - alpha`` and above.
    :param ood_distance: detector distance: 0 at the calibration median, 1 at its 95th percentile, unbounded.
    :param is_ood: whether the pair is out of distribution.
    """

    index: int
    score: float
    grade: int
    grade_name: str
    grade_probs: tuple[float, ...]
    ood_score: float
    ood_distance: float
    is_ood: bool


class Reranker:
    """Reranks documents with a bundle. Threads may share one; close it, or use it in a ``with`` statement.

    Pickled, it is opened again where it arrives: the bundle must lie at the same path there.

    :param bundle: an opened bundle or its folder.
    :param ood_log: an OOD log, or the path of its spool: every ranked request is written there. :meth:`close` closes
        a log opened for a path; a log you pass stays open.
    :param provider: ``cpu`` or ``cuda``; without a usable GPU the CPU is used, with a warning.
    :param threads: batches scored in parallel on the CPU; by default one per core.
    :param int8: use the quantised graph.
    :param states: where item states are kept, so that an item is encoded once and not for every query: a store, or
        its folder; in memory by default. :meth:`close` closes a store opened here.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        ood_log: OodLog | str | os.PathLike[str] | None = None,
        provider: Provider = "cpu",
        threads: int | None = None,
        int8: bool = False,
        states: StateStore | str | os.PathLike[str] | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._given = {"ood_log": ood_log, "provider": provider, "threads": threads, "int8": int8, "states": states}
        self._own_states: StateStore | None = None
        if not isinstance(states, StateStore) and self.bundle.has_states(int8=int8):
            states = self._own_states = StateStore(None if states is None else Path(states))
        self.scorer = Scorer.open(
            self.bundle, provider=provider, threads=threads, int8=int8,
            states=states if isinstance(states, StateStore) else None,
        )  # fmt: skip
        self._own_log: OodLog | None = None
        if ood_log is not None and not isinstance(ood_log, OodLog):
            card = self.bundle.card
            self._own_log = OodLog.open(ood_log, model=card.name, version=card.version, alpha=card.ood.alpha)
            ood_log = self._own_log
        self._ood_log = ood_log

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.options(), self.bundle.identity)

    def options(self) -> dict[str, Any]:
        """Say how it was opened, as JSON values: ``Reranker(**options)`` opens another like it.

        :return: the arguments, with absolute paths.
        :raises UsageError: if it was given an opened OOD log or state store, which are of this process alone.
        """
        options: dict[str, Any] = {"bundle": str(self.bundle.path.absolute()), **self._given}
        for name in ("ood_log", "states"):
            value = options[name]
            if isinstance(value, OodLog | StateStore):
                raise UsageError(f"the reranker was given an opened {name}", todo=f"pass its path as {name} instead")
            options[name] = None if value is None else str(Path(value).absolute())
        return options

    def close(self) -> None:
        """Stop the scorer, and close a log or store that was opened here."""
        self.scorer.close()
        if self._own_states is not None:
            self._own_states.close()
        if self._own_log is not None:
            self._own_log.close()

    def rank(
        self, query: str, docs: Sequence[str | Mapping[str, Any]], *, top_n: int | None = None,
        min_grade: int | str | None = None, min_score: float | None = None, drop_ood: bool = False,
    ) -> list[RankedDocument]:  # fmt: skip
        """Score documents and return them best first; ties stay in the order given.

        :param docs: texts, or items as mappings: their ``darl_text`` if they have one (``darl_long_text`` for a bundle
            that scores in chunks), else rendered by the bundle's template.
        :param top_n: documents to return; all by default.
        :param min_grade: return only documents of this grade or better, by its number or name.
        :param min_score: return only documents with this score or more, in [0, 1].
        :param drop_ood: return only documents that are in distribution.
        :raises InputError: if a document is neither text nor an item that the template can render, or the model has no
            such grade or score.
        """
        started = time.perf_counter()
        thresholds = self._thresholds(min_grade, min_score, drop_ood)
        if top_n is not None and top_n < 0:
            raise UsageError(f"top_n is {top_n}", todo="use 0 or more, or leave it out to get all documents")
        if isinstance(docs, str):
            raise InputError("docs is one text", todo="pass a list of texts or items")
        texts = [
            self._render(doc, TEXT_FIELD, where=f"document {index}") if isinstance(doc, Mapping) else doc
            for index, doc in enumerate(docs)
        ]
        id_field = self.bundle.card.template.id_field
        doc_ids = [str(doc.get(id_field) or "") if isinstance(doc, Mapping) else "" for doc in docs]
        scores = self.scorer.score(query, texts)
        self._log(query, texts, scores, started, doc_ids=doc_ids)
        rows, grades, columns = scores.data.tolist(), scores.grade.tolist(), scores.columns
        kept, is_ood, names = thresholds.keep(scores), scores.is_ood.tolist(), self.bundle.card.scale.names
        return [
            RankedDocument(
                index=index,
                score=rows[index][columns.score],
                grade=grades[index],
                grade_name=names[grades[index]],
                grade_probs=tuple(rows[index][columns.grade_probs]),
                ood_score=rows[index][columns.ood_score],
                ood_distance=rows[index][columns.ood_distance],
                is_ood=is_ood[index],
            )
            for index in [place for place in scores.order().tolist() if kept[place]][:top_n]
        ]

    def rerank(
        self,
        query: str,
        response: Mapping[str, Any],
        *,
        size: int | None = None,
        from_: int = 0,
        window: int | None = None,
        min_grade: int | str | None = None,
        min_score: float | None = None,
        drop_ood: bool = False,
        text_field: str = TEXT_FIELD,
        id_field: str = ID_FIELD,
        request_id: str | None = None,
        query_id: str | None = None,
        slice: str | None = None,
    ) -> dict[str, Any]:
        """Rerank the hits of a search response.

        Hits come back as from a ``darl`` pipeline: best first, with the model's columns and ``previous_score`` in
        ``_source``. A hit's text is ``text_field`` of its ``_source`` (``darl_long_text`` rather than ``darl_text``
        for a bundle that scores in chunks); a hit without it is rendered by the bundle's template. Hits that cannot be
        rendered follow the scored ones in their old order, with a null ``_score`` and without the model's fields, and
        so do those beyond ``window``; with a threshold they are left out, because nothing says that they reach it.

        :param response: what ``client.search`` returned; it is not changed.
        :param size: hits to return; all by default.
        :param from_: hits to skip after reranking.
        :param window: hits to score, from the first; all by default.
        :param min_grade: return only hits of this grade or better, by its number or name.
        :param min_score: return only hits with this score or more, in [0, 1].
        :param drop_ood: return only hits that are in distribution.
        :param text_field: field that holds the text the model reads.
        :param id_field: field that identifies an item in the OOD log; without it the hit's ``_id`` does.
        :param request_id: the caller's id of the request; a UUID by default.
        :param query_id: the caller's id of the query, logged for joins with UBI.
        :param slice: traffic slice of the query, logged.
        :return: a response of the same shape, with ``darl`` beside ``hits``: ``model``, ``version``,
            ``request_id``, ``reranked``, and ``scored``, ``unscored`` and ``dropped`` hits.
        :raises InputError: if none of the window's hits can be rendered, or the model has no such grade or score.
        """
        started = time.perf_counter()
        thresholds = self._thresholds(min_grade, min_score, drop_ood)
        hits = _hits(response)
        for asked in (size, from_, window):
            if asked is not None and asked < 0:
                raise UsageError(f"{asked} hits cannot be returned, skipped or scored", todo="use 0 or more")
        within, beyond = hits[:window], hits[len(hits[:window]) :]
        texts = [self._text(hit, text_field) for hit in within]
        scored = [(hit, text) for hit, text in zip(within, texts, strict=True) if text is not None]
        unscored = [hit for hit, text in zip(within, texts, strict=True) if text is None] + beyond
        if within and not scored:
            raise InputError(
                f"none of the {len(within)} hits has {text_field!r} or a field of the bundle's template",
                where=f"search for {query!r}",
                todo=f"ask for {text_field!r} in _source, or index the items by darl index",
            )
        documents = [text for _, text in scored]
        scores = self.scorer.score(query, documents)
        request_id = request_id or str(uuid.uuid4())
        fields, rows, grades = scores.columns.hit_fields(), scores.data.tolist(), scores.grade.tolist()
        kept = thresholds.keep(scores)
        ranked = [
            _make_ranked_hit(scored[i][0], {name: rows[i][column] for name, column in fields.items()}, grades[i])
            for i in scores.order().tolist()
            if kept[i]
        ]
        if thresholds == Thresholds():
            ranked += [hit | {"_score": None} for hit in unscored]
        doc_ids = [_item_id(hit, id_field) for hit, _ in scored]
        if within or not hits:  # else nothing was to be scored
            self._log(
                query, documents, scores, started, doc_ids=doc_ids, request_id=request_id, query_id=query_id,
                slice=slice,
            )  # fmt: skip
        best = float(scores.score[kept].max()) if kept.any() else None
        return dict(response) | {
            "hits": dict(response["hits"]) | {"hits": ranked[from_:][:size], "max_score": best},
            "darl": {
                "model": self.bundle.card.name,
                "version": self.bundle.card.version,
                "request_id": request_id,
                "reranked": bool(scored),
                "scored": len(scored),
                "unscored": len(unscored),
                "dropped": len(hits) - len(ranked),
            },
        }

    def search(
        self,
        client: OpenSearch,
        index: str,
        query: str,
        size: int = 10,
        *,
        from_: int = 0,
        window: int = 50,
        min_grade: int | str | None = None,
        min_score: float | None = None,
        drop_ood: bool = False,
        filter: Mapping[str, Any] | None = None,
        text_field: str = TEXT_FIELD,
        query_id: str | None = None,
        slice: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Retrieve candidates by BM25 on the text field and rerank them.

        Each page is cut from one ranking: the window, reranked, and behind it the first stage's order. Pages of the
        same size and window therefore show each hit once.

        :param size: hits per page.
        :param from_: hits to skip, as in OpenSearch's ``from``.
        :param window: candidates to retrieve and score; at least ``size``.
        :param filter: a query that candidates must match as well.
        :return: see :meth:`rerank`, also for the other arguments.
        """
        bool_query: dict[str, Any] = {"must": [{"match": {text_field: {"query": query}}}]}
        if filter is not None:
            bool_query["filter"] = [filter]
        if from_ < 0:
            raise UsageError(f"{from_} hits cannot be skipped", todo="use 0 for the first page")
        window = max(window, size)
        start = from_ if from_ >= window else 0  # a page beyond the window needs none of its scores
        body = {"query": {"bool": bool_query}, "size": max(window, from_ + size) - start}
        if start:
            body["from"] = start
        # An index may have a darl pipeline by default; its order would not be the first stage's.
        response = client.search(index=index, body=body, params=dict(NO_PIPELINE))
        return self.rerank(
            query, response, size=size, from_=from_ - start, window=0 if start else window, min_grade=min_grade,
            min_score=min_score, drop_ood=drop_ood, text_field=text_field, query_id=query_id, slice=slice,
            request_id=request_id,
        )  # fmt: skip

    def _thresholds(self, min_grade: int | str | None, min_score: float | None, drop_ood: bool) -> Thresholds:
        return Thresholds.of(self.bundle.card.scale, min_grade=min_grade, min_score=min_score, drop_ood=drop_ood)

    def _render(self, item: Mapping[str, Any], text_field: str, *, where: str | None = None) -> str:
        text = item.get(self.bundle.card.text_field if text_field == TEXT_FIELD else text_field)
        return text if isinstance(text, str) and text else self.bundle.renderer(item, where=where)

    def _text(self, hit: Mapping[str, Any], text_field: str) -> str | None:
        try:
            return self._render(hit.get("_source") or {}, text_field)
        except InputError:
            return None

    def _log(
        self, query: str, documents: Sequence[str], scores: Scores, started: float,
        *, doc_ids: Sequence[str], request_id: str = "", query_id: str | None = None, slice: str | None = None,
    ) -> None:  # fmt: skip
        if self._ood_log is None:
            return
        self._ood_log.offer(
            RankedRequest(
                request_id=request_id or str(uuid.uuid4()),
                timestamp=datetime.now(UTC),
                query=query,
                query_id=query_id,
                slice=slice,
                doc_ids=doc_ids,
                documents=documents,
                scores=scores,
                latency_ms=1000 * (time.perf_counter() - started),
                route="python",
            )
        )


def _open_again(options: Mapping[str, Any], identity: str) -> Reranker:
    reranker = Reranker(**options)
    if reranker.bundle.identity != identity:
        reranker.close()
        raise BundleError(
            "this is another bundle than the one that was pickled", where=options["bundle"],
            todo="put the same bundle at the same path on every machine",
        )  # fmt: skip
    return reranker


def _make_ranked_hit(hit: Mapping[str, Any], fields: Mapping[str, float], grade: int) -> dict[str, Any]:
    source = {**(hit.get("_source") or {}), **fields, "darl_grade": grade, "previous_score": hit.get("_score")}
    return dict(hit) | {"_score": fields["darl_score"], "_source": source}


def _hits(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        hits = [dict(hit) for hit in response["hits"]["hits"]]
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"this is not a search response ({err})", todo="pass what client.search returned") from err
    if any(isinstance(hit.get("_score"), float) and hit["_score"] < DELIMITER_SCORE for hit in hits):
        raise InputError(
            "these are the raw results of a hybrid query, with rows that only delimit its sub-queries",
            todo="search with a normalization-processor in phase_results_processors",
        )
    return hits


def _item_id(hit: Mapping[str, Any], id_field: str) -> str:
    source = hit.get("_source") or {}
    return str(source.get(id_field) or hit.get("_id") or "")
