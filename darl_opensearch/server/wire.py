"""Parsing requests and rendering responses in the format of Cohere and Jina, extended by grades and OOD, or of TEI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from darl_opensearch.bundle import Card
from darl_opensearch.errors import InputError
from darl_opensearch.records.values import as_whole
from darl_opensearch.scores import GradeScale, Scores, Thresholds
from darl_opensearch.scoring import Pass
from darl_opensearch.server.errors import ApiError
from darl_opensearch.server.fixed_json import Json, dumps, format_number
from darl_opensearch.text import clean

Shape = Literal["cohere", "tei"]


@dataclass(frozen=True)
class RerankCall:
    """A request to rank documents.

    :param top_n: maximum results, or None for all.
    :param thresholds: that a result must reach.
    """

    query: str
    documents: list[str]
    shape: Shape = "cohere"
    top_n: int | None = None
    return_documents: bool = False
    query_id: str | None = None
    slice: str | None = None
    doc_ids: list[str] | None = None
    thresholds: Thresholds = Thresholds()


def parse_request(body: bytes, *, scale: GradeScale, max_documents: int) -> RerankCall:
    """Parse a request.

    Unknown fields are ignored, because clients of other services send theirs; but not those that ask for other numbers
    than would be returned.

    :param scale: the model's grades.
    :raises ApiError: 400 if it is not JSON, 422 if a field is invalid, 413 for too many documents.
    """
    data = _read_json(body)
    if ("documents" in data) == ("texts" in data):
        problem = "both documents and texts are given" if "texts" in data else "neither documents nor texts is given"
        _invalid(problem, todo='send {"query": "…", "documents": ["…", "…"]}')
    shape: Shape = "tei" if "texts" in data else "cohere"
    field = "texts" if shape == "tei" else "documents"
    documents = _texts(data[field], field, max_documents)
    _check_foreign(data)
    return RerankCall(
        query=_query(data.get("query")),
        documents=documents,
        shape=shape,
        top_n=_top_n(data.get("top_n")),
        return_documents=_flag(data, "return_text" if shape == "tei" else "return_documents"),
        query_id=_label(data.get("query_id"), "query_id"),
        slice=_label(data.get("slice"), "slice"),
        doc_ids=_doc_ids(data.get("doc_ids"), len(documents)),
        thresholds=_thresholds(data, scale),
    )


def render_response(call: RerankCall, ranked: Pass, card: Card, request_id: str) -> str:
    """Render the response body."""
    scores = ranked.scores
    kept = call.thresholds.keep(scores)
    order = [i for i in scores.order().tolist() if kept[i]]
    if call.shape == "tei":
        texts = [{"text": text} if call.return_documents else {} for text in call.documents]
        return dumps([{"index": i, "score": float(scores.score[i])} | texts[i] for i in order])
    # Each number is formatted once, and texts are put together: of a warm search this is a tenth.
    rows = [[format_number(value) for value in row] for row in scores.data.tolist()]
    return dumps({
        "id": request_id,
        "model": card.name,
        "results": Json(f"[{','.join(_render_results(call, scores, rows, card, order[: call.top_n]))}]"),
        "dropped": len(scores) - len(order),
        "ood": summarise_ood(scores),
        "tensors": render_tensors(rows),
        "usage": {"total_tokens": ranked.tokens, "pairs": len(scores)},
    })  # fmt: skip


def render_tensors(rows: Sequence[Sequence[str]]) -> str:
    """Render all columns as ML Commons tensors: a JSON array with one tensor per document, in order.

    The connector's post-process function returns this string unchanged, so one remote model serves both the ``rerank``
    processor, which reads the first number, and ``ml_inference``, which maps all of them.
    """
    tensors = [
        f'{{"name":"similarity","data_type":"FLOAT32","shape":[{len(row)}],"data":[{",".join(row)}]}}' for row in rows
    ]
    return f"[{','.join(tensors)}]"


def summarise_ood(scores: Scores) -> dict[str, Any]:
    """Summarise a request's OOD scores, with the field names of the OOD log's request records."""
    n, ood_pairs = len(scores), int(scores.is_ood.sum())
    return {
        "alpha": scores.alpha,
        "candidates": n,
        "ood_pairs": ood_pairs,
        "ood_share": ood_pairs / n if n else 0.0,
        "max_ood_score": float(scores.ood_score.max()) if n else None,
        "max_ood_distance": float(scores.ood_distance.max()) if n else None,
    }


def _render_results(
    call: RerankCall, scores: Scores, rows: Sequence[Sequence[str]], card: Card, places: Sequence[int]
) -> Iterator[str]:
    """Render the results of some documents.

    :param rows: of all documents, numbers as they are written.
    """
    columns, names = scores.columns, [dumps(name) for name in card.scale.names]
    grades, is_ood = scores.grade.tolist(), scores.is_ood.tolist()
    for i in places:
        row, grade = rows[i], grades[i]
        document = f'"document":{dumps({"text": call.documents[i]})},' if call.return_documents else ""
        yield (
            f'{{"index":{i},"relevance_score":{row[columns.score]},{document}"grade":{grade},'
            f'"grade_name":{names[grade]},"grade_probs":[{",".join(row[columns.grade_probs])}],'
            f'"ood_score":{row[columns.ood_score]},"ood_distance":{row[columns.ood_distance]},'
            f'"is_ood":{dumps(is_ood[i])}}}'
        )


def _read_json(body: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        why = "nested too deeply" if isinstance(err, RecursionError) else str(err)
        raise ApiError(400, f"the body is not JSON ({why[:200]})", todo="send one JSON object in UTF-8") from err
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is {_kind(data)}, not an object", todo='send {"query": …, "documents": […]}')
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _query(value: object) -> str:
    if not isinstance(value, str):
        _invalid(f"is {_kind(value)}, not text", where="query", todo="send a string")
    if not value.strip():
        _invalid("is empty", where="query", todo="send the search text")
    return clean(value)


def _texts(value: object, field: str, most: int) -> list[str]:
    if not isinstance(value, list):
        _invalid(f"is {_kind(value)}, not a list", where=field, todo="send a list of texts")
    if len(value) > most:
        raise ApiError(
            413, f"has {len(value)} entries, more than {most}", where=field,
            todo="send fewer, or raise --max-documents",
        )  # fmt: skip
    texts = []
    for place, entry in enumerate(value):
        text = entry.get("text") if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            kind = "an object without a text" if isinstance(entry, dict) else _kind(entry)
            _invalid(f"is {kind}, not text", where=f"{field}[{place}]", todo='send a string or {"text": "…"}')
        texts.append(clean(text))
    return texts


def _top_n(value: object) -> int | None:
    if value is None:
        return None
    number = as_whole(value)
    if number is None or number < 1:
        actual = value if isinstance(value, int | float) else _kind(value)
        _invalid(f"is {actual}, not a whole number of at least 1", where="top_n", todo="omit it to get all")
    return number


def _thresholds(data: Mapping[str, Any], scale: GradeScale) -> Thresholds:
    try:
        return Thresholds.of(scale, **{name: data.get(name) for name in ("min_grade", "min_score", "drop_ood")})
    except InputError as err:
        raise ApiError(422, err.what, where=err.where, todo=err.todo) from err


def _check_foreign(data: Mapping[str, Any]) -> None:
    """Refuse what other services offer and would change the numbers: what was asked for is not what would be given."""
    if data.get("rank_fields") not in (None, [], ["text"]):
        _invalid(
            "is not supported: a document is ranked by its text", where="rank_fields",
            todo='send each document as one text, rendered as darl index does, and omit rank_fields or send ["text"]',
        )  # fmt: skip
    if data.get("raw_scores"):
        _invalid(
            "is not supported: scores are expected gains in [0, 1]", where="raw_scores", todo="omit it or send false"
        )


def _flag(data: Mapping[str, Any], field: str) -> bool:
    value = data.get(field)
    if value is not None and not isinstance(value, bool):
        _invalid(f"is {_kind(value)}, not true or false", where=field, todo="send true or false")
    return bool(value)


def _label(value: object, field: str) -> str | None:
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int)):
        _invalid(f"is {_kind(value)}, not text", where=field, todo="send a string, or omit it")
    text = "" if value is None else clean(str(value))
    if len(text) > 1024:
        _invalid(f"has {len(text)} characters, more than 1024", where=field, todo="send a short id")
    return text or None  # a connector's parameters default to ""


def _doc_ids(value: object, count: int) -> list[str] | None:
    if isinstance(value, str):  # a connector may send its default "[]", or a whole list, as a string
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            _invalid("is a string that holds no JSON list", where="doc_ids", todo="send a list")
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        _invalid(f"is {_kind(value)}, not a list", where="doc_ids", todo="send one id per document")
    if len(value) != count:
        _invalid(f"has {len(value)} entries for {count} documents", where="doc_ids", todo="send one each, or none")
    return [_label(entry, f"doc_ids[{place}]") or "" for place, entry in enumerate(value)]


def _invalid(what: str, *, where: str | None = None, todo: str | None = None) -> NoReturn:
    raise ApiError(422, what, where=where, todo=todo)


def _kind(value: object) -> str:
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
