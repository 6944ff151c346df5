"""Records of the OOD log; only this module names the fields of a ``darl-ood`` record.

A reranked request becomes one *request* record, and one *pair* record for each item that is out of distribution or in
the baseline sample. A search that was not reranked becomes a request record without candidates. Ids and sampling depend
only on the request (its id, query and items), the model version and the item's position, so a retry produces the same
records. Field names are those of
``plugin_config/ood_index_template.json``; a test compares them. docs/ood-log.md quotes the ``:param`` lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, get_args

from darl_opensearch.errors import InputError
from darl_opensearch.io.digest import digest_data, hash_int
from darl_opensearch.scores import Scores, is_ood
from darl_opensearch.text import clean

Route = Literal["server", "python", "search"]
TextPolicy = Literal["full", "hash", "none"]
Kind = Literal["request", "pair"]

_ID_BITS = 128
_NO_POSITION = "request"  # in place of a pair's position


@dataclass(frozen=True, kw_only=True)
class RankedRequest:
    """A query, its ranked items and their scores, as passed to the log.

    A search that was not reranked has no scores, so it has no documents either.

    :param request_id: the caller's ``X-Request-Id``, which may be shared by many requests, or a UUID.
    :param timestamp: time of the answer.
    :param query: the query's text.
    :param query_id: the caller's id of the query, for joins with UBI.
    :param slice: traffic slice of the query.
    :param doc_ids: item ids in the order of ``documents``, if known.
    :param documents: item texts in scoring order.
    :param latency_ms: duration of the ranking.
    :param route: who ranked: ``server``, ``python`` or ``search``.
    :param reranked: False for a search that returned hits in first-stage order, because something failed.
    """

    request_id: str
    timestamp: datetime
    query: str
    query_id: str | None = None
    slice: str | None = None
    doc_ids: Sequence[str] | None = None
    documents: Sequence[str]
    scores: Scores
    latency_ms: float
    route: Route
    reranked: bool = True

    def __post_init__(self) -> None:
        """Refuse a request whose parts do not match."""
        counts = {"documents": len(self.documents), "scores": len(self.scores)}
        if self.doc_ids is not None:
            counts["doc_ids"] = len(self.doc_ids)
        if len(set(counts.values())) != 1:
            raise InputError(f"lengths differ: {counts}", where=f"request {self.request_id}", todo="pass one of each")
        if self.documents and not self.reranked:
            raise InputError(
                "a request that was not reranked has scores",
                where=f"request {self.request_id}",
                todo="pass no documents",
            )
        if self.timestamp.tzinfo is None:
            raise InputError("the timestamp has no time zone", where=f"request {self.request_id}", todo="pass UTC")
        if self.route not in get_args(Route):
            raise InputError(f"unknown route {self.route!r}", todo=f"use one of {', '.join(get_args(Route))}")
        if not self.request_id:
            raise InputError("the request id is empty", todo="pass the caller's X-Request-Id or a UUID")


@dataclass(frozen=True, kw_only=True)
class _Common:
    record_id: str
    timestamp: datetime
    request_id: str
    query: str
    query_id: str | None
    slice: str | None
    model: str
    version: str
    alpha: float
    route: str

    kind: ClassVar[Kind]

    def to_json(self) -> dict[str, Any]:
        """Render for the data stream, without fields that are None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {"@timestamp": format_timestamp(values.pop("timestamp")), "kind": self.kind} | values
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RequestRecord(_Common):
    """A request. Its counts are exact: they include pairs that were not logged.

    :param reranked: whether its hits were scored and sorted; records without this field were.
    :param candidates: number of scored items; 0 if not reranked.
    :param ood_pairs: number of candidates that are OOD.
    :param ood_share: share of candidates that are OOD; 0 without candidates, None if not reranked.
    :param max_ood_score: highest ``ood_score``; None without candidates.
    :param max_ood_distance: highest ``ood_distance``; None without candidates.
    :param latency_ms: duration of the ranking.
    """

    kind: ClassVar[Kind] = "request"

    reranked: bool = True
    candidates: int
    ood_pairs: int
    ood_share: float | None
    max_ood_score: float | None = None
    max_ood_distance: float | None = None
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class PairRecord(_Common):
    """A query-item pair.

    :param position: place of the item in scoring order, from 0.
    :param item_id: id of the item, if known.
    :param item_text: scored text, if texts are logged in full.
    :param item_text_hash: :func:`text_hash` of the text, if only hashes are logged.
    :param score: expected gain over the highest gain.
    :param grade: most probable grade.
    :param grade_probs: probability of each grade.
    :param ood_score: 1 minus the conformal p-value.
    :param ood_distance: scaled detector distance.
    :param is_ood: whether ``ood_score >= 1 - alpha``.
    :param weight: 1 / inclusion probability; sums of it estimate counts over all pairs.
    """

    kind: ClassVar[Kind] = "pair"

    position: int
    item_id: str | None = None
    item_text: str | None = None
    item_text_hash: str | None = None
    score: float
    grade: int
    grade_probs: tuple[float, ...]
    ood_score: float
    ood_distance: float
    is_ood: bool
    weight: float


Record = RequestRecord | PairRecord


@dataclass(frozen=True, kw_only=True)
class LogPolicy:
    """The ranking model, and how much of its traffic is logged.

    :param model: name of the bundle.
    :param version: version of the bundle.
    :param alpha: false-alarm rate of the OOD calibration.
    :param sample_rate: share of in-distribution pairs to log as well, in [0, 1].
    :param text: how to log item texts: ``full``, ``hash`` or ``none``.
    """

    model: str
    version: str
    alpha: float
    sample_rate: float = 0.05
    text: TextPolicy = "full"

    def __post_init__(self) -> None:
        """Refuse rates outside [0, 1] and unknown text policies."""
        if not 0 <= self.sample_rate <= 1:
            raise InputError(f"the sample rate {self.sample_rate} is outside 0..1", todo="use a share such as 0.05")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha {self.alpha} is outside 0..1", todo="take it from the bundle's card")
        if self.text not in get_args(TextPolicy):
            raise InputError(f"unknown text policy {self.text!r}", todo=f"use one of {', '.join(get_args(TextPolicy))}")


def fingerprint(request: RankedRequest) -> str:
    """Identify a request by 64 hexadecimal digits of its id, query and ordered items.

    Some callers send the same ``X-Request-Id`` with every request, so the id alone is not unique. The time is left
    out: a retry under the same id after a lost answer is the same request.
    """
    ids = () if request.doc_ids is None else request.doc_ids
    parts = (request.request_id, request.query, str(len(ids)), *ids, *request.documents)
    return digest_data(_join(parts))


def record_id(request: str, model: str, version: str, position: int | None) -> str:
    """Identify a record by 32 hexadecimal digits, the same for each attempt to log it.

    :param position: of the item, or None for the request's own record.
    """
    parts = (request, model, version, _NO_POSITION if position is None else str(position))
    return digest_data(_join(parts))[: _ID_BITS // 4]


def is_sampled(record_id: str, rate: float) -> bool:
    """Whether a record is in the baseline sample, a share ``rate`` of all ids; a retry gives the same answer."""
    # Hashed again, so that sorting or splitting by id prefix elsewhere stays independent of the sample.
    return hash_int(record_id, purpose=b"darl-draw") < rate * 2**64


def text_hash(text: str) -> str:
    """Hash an item's text for logs without texts: 32 hexadecimal digits of its SHA-256."""
    return digest_data(_utf8(text))[: _ID_BITS // 4]


def expand_request(request: RankedRequest, policy: LogPolicy) -> Iterator[Record]:
    """Expand a request into its request record, followed by its logged pairs by position."""
    scores = request.scores
    ood = is_ood(scores.ood_score, policy.alpha)
    common: dict[str, Any] = {
        "timestamp": request.timestamp.astimezone(UTC),
        "request_id": _clean(request.request_id),
        "query": _clean(request.query),
        "query_id": _clean(request.query_id) or None,
        "slice": _clean(request.slice) or None,
        "model": policy.model,
        "version": policy.version,
        "alpha": policy.alpha,
        "route": request.route,
    }
    n, of_request = len(scores), fingerprint(request)
    yield RequestRecord(
        record_id=record_id(of_request, policy.model, policy.version, None),
        reranked=request.reranked,
        candidates=n,
        ood_pairs=int(ood.sum()),
        ood_share=(round(float(ood.mean()), 6) if n else 0.0) if request.reranked else None,
        max_ood_score=_rounded(scores.ood_score.max()) if n else None,
        max_ood_distance=_rounded(scores.ood_distance.max()) if n else None,
        latency_ms=round(float(request.latency_ms), 3),
        **common,
    )
    grades = scores.grade
    for position in range(n):
        identity = record_id(of_request, policy.model, policy.version, position)
        if not ood[position] and not is_sampled(identity, policy.sample_rate):
            continue
        text = request.documents[position]
        yield PairRecord(
            record_id=identity,
            position=position,
            item_id=_clean(request.doc_ids[position]) or None if request.doc_ids is not None else None,
            item_text=_clean(text) if policy.text == "full" else None,
            item_text_hash=text_hash(text) if policy.text == "hash" else None,
            score=_rounded(scores.score[position]),
            grade=int(grades[position]),
            grade_probs=tuple(_rounded(p) for p in scores.grade_probs[position]),
            ood_score=_rounded(scores.ood_score[position]),
            ood_distance=_rounded(scores.ood_distance[position]),
            is_ood=bool(ood[position]),
            weight=1.0 if ood[position] else 1.0 / policy.sample_rate,
            **common,
        )


def record_from_json(data: Mapping[str, Any]) -> Record:
    """Read the output of ``to_json``; fields of later versions are ignored.

    :raises InputError: if a field is missing.
    """
    where = f"record {data.get('record_id')}"
    types: dict[str, type[Record]] = {"request": RequestRecord, "pair": PairRecord}
    cls = types.get(str(data.get("kind")))
    if cls is None:
        raise InputError(f"unknown kind of record {data.get('kind')!r}", where=where, todo="is this index the OOD log?")
    values: dict[str, Any] = {field.name: data.get(field.name) for field in dataclasses.fields(cls)}
    try:
        values["timestamp"] = parse_timestamp(data["@timestamp"])
        if cls is PairRecord:
            values["grade_probs"] = tuple(data["grade_probs"])
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"the record is incomplete ({err})", where=where, todo="is this index the OOD log?") from err
    optional = {"query_id", "slice"} | {f.name for f in dataclasses.fields(cls) if f.default is None}
    if cls is RequestRecord:
        values["reranked"] = values["reranked"] is not False  # written before there was the field: reranked
        optional |= set() if values["reranked"] else {"ood_share"}
    if missing := sorted(name for name, value in values.items() if value is None and name not in optional):
        raise InputError(f"the record has no {', '.join(missing)}", where=where, todo="is this index the OOD log?")
    return cls(**values)


def format_timestamp(timestamp: datetime) -> str:
    """Format an aware time as in all records: UTC with milliseconds, ``2026-03-01T12:00:00.000Z``."""
    return timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_ms(timestamp: datetime) -> int:
    """Convert an aware time to whole milliseconds since 1970, truncated as in :func:`format_timestamp`."""
    return (timestamp - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def parse_timestamp(text: str) -> datetime:
    """Parse an ISO 8601 time; without a time zone it is UTC."""
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _rounded(value: Any) -> float:
    return round(float(value), 6)  # what the HTTP answers print


def _join(parts: Iterable[str]) -> bytes:
    return _utf8("".join(f"{len(part)}:{part}" for part in parts))  # lengths keep ("a", "bc") and ("ab", "c") apart


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _clean(text: str | None) -> str:
    return clean(text or "")
