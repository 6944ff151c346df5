"""Laws of the records: same ids and draws on every attempt, weights that make shares unbiased."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import InputError
from darl_opensearch.ood.record import (
    LogPolicy,
    PairRecord,
    RankedRequest,
    RequestRecord,
    expand_request,
    fingerprint,
    is_sampled,
    record_from_json,
    record_id,
    text_hash,
    to_ms,
)
from darl_opensearch.ood.stream import template
from tests.helpers.traffic import POLICY, request_of, scores_of

texts = st.text(max_size=40)  # half surrogates included: JSON can carry them
short = st.text(max_size=4)
identities = st.tuples(short, short, short, st.none() | st.integers(0, 9))
unit = st.floats(0, 1, width=32)
requests = st.builds(
    lambda request_id, query, query_id, slice, ood, when: request_of(
        0, ood, request_id=request_id, query=query, query_id=query_id, slice=slice, timestamp=when
    ),
    request_id=st.text(min_size=1, max_size=40),
    query=texts,
    query_id=st.none() | texts,
    slice=st.none() | texts,
    ood=st.lists(unit, max_size=12),
    when=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),
)


@given(request=requests, text=st.sampled_from(["full", "hash", "none"]), rate=st.floats(0, 1))
def test_every_attempt_makes_the_same_records(request, text, rate):
    policy = LogPolicy(model="m", version="1", alpha=0.05, sample_rate=rate, text=text)
    first = [json.dumps(r.to_json(), ensure_ascii=False).encode() for r in expand_request(request, policy)]
    again = [json.dumps(r.to_json(), ensure_ascii=False).encode() for r in expand_request(request, policy)]
    assert first == again
    ids = [r.record_id for r in expand_request(request, policy)]
    assert len(set(ids)) == len(ids)


@given(request=requests, text=st.sampled_from(["full", "hash", "none"]))
def test_records_survive_json(request, text):
    for record in expand_request(request, dataclasses.replace(POLICY, text=text)):
        back = record_from_json(json.loads(json.dumps(record.to_json())))
        cut = record.timestamp.replace(microsecond=record.timestamp.microsecond // 1000 * 1000)
        assert back == dataclasses.replace(record, timestamp=cut)
        assert to_ms(back.timestamp) == to_ms(record.timestamp)


@given(request=requests, rate=st.floats(0, 1))
def test_what_is_ood_is_always_logged_and_the_request_counts_exactly(request, rate):
    policy = dataclasses.replace(POLICY, sample_rate=rate)
    head, *pairs = expand_request(request, policy)
    assert isinstance(head, RequestRecord)
    ood = np.asarray(request.scores.is_ood)
    assert (head.candidates, head.ood_pairs) == (len(ood), int(ood.sum()))
    assert {p.position for p in pairs if p.is_ood} == set(np.flatnonzero(ood))
    assert all(p.weight == (1 if p.is_ood else 1 / rate) for p in pairs)


@given(a=identities, b=identities)
def test_another_request_version_or_position_is_another_id(a, b):
    assert (record_id(*a) == record_id(*b)) == (a == b)


@pytest.mark.parametrize(
    "other",
    [
        {"request_id": "r2"},
        {"query": "query 1 "},
        {"documents": ["text of item 0", "another text"]},
        {"documents": ["text of item 1", "text of item 0"]},
        {"doc_ids": ["item-0", "item-2"]},
        {"doc_ids": None},
    ],
)
def test_one_id_for_many_requests_hides_none(other):
    one, two = request_of(1, [0.99, 0.98]), request_of(1, [0.99, 0.98], **other)
    records = [*expand_request(one, POLICY), *expand_request(two, POLICY)]
    assert len({record.record_id for record in records}) == len(records) == 6
    assert {record.request_id for record in records} == {one.request_id, two.request_id}  # as the caller sent it


def test_what_a_request_is_does_not_depend_on_how_it_is_held():
    """Nor on what the model said of it, how long that took, or when: a caller may ask again under the same id."""
    one = request_of(1, [0.99, 0.98])
    later = one.timestamp + timedelta(seconds=3)
    two = request_of(1, [0.1, 0.2], timestamp=later, documents=tuple(one.documents), latency_ms=1.0)
    assert fingerprint(one) == fingerprint(two)


def test_under_one_id_each_request_draws_for_itself():
    """Drawn by the caller's id alone, a position would be logged of all requests or of none."""
    requests = (request_of(number, [0.5], request_id="constant") for number in range(400))
    drawn = sum(len(list(expand_request(request, POLICY))) - 1 for request in requests)
    assert abs(drawn - 200) <= 4 * 10  # standard errors of 400 draws at 1/2


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_weights_make_shares_unbiased(rate):
    """Over many draws the weighted share averages to the true one, within 4 standard errors."""
    policy = dataclasses.replace(POLICY, sample_rate=rate)
    ood = [0.99] * 3 + [0.5] * 27
    hits = totals = squares = 0.0
    runs = 3000
    for number in range(runs):
        pairs = [r for r in expand_request(request_of(number, ood), policy) if isinstance(r, PairRecord)]
        total = sum(p.weight for p in pairs)
        hits += sum(p.weight for p in pairs if p.is_ood)
        totals, squares = totals + total, squares + (total - 30) ** 2
    assert hits == 3 * runs
    assert abs(totals / runs - 30) <= 4 * np.sqrt(squares / runs / runs)


@given(identity=st.text("0123456789abcdef", min_size=32, max_size=32), a=unit, b=unit)
def test_draws_are_nested(identity, a, b):
    """Raising the rate only adds records; 0 draws nothing and 1 everything."""
    low, high = sorted((a, b))
    assert not is_sampled(identity, low) or is_sampled(identity, high)
    assert is_sampled(identity, 1) and not is_sampled(identity, 0)


def test_item_text_is_logged_as_asked():
    request = request_of(0, [0.99])
    by_policy = {}
    for text in ("full", "hash", "none"):
        _, pair = expand_request(request, dataclasses.replace(POLICY, text=text))
        by_policy[text] = (pair.item_text, pair.item_text_hash)
    assert by_policy == {
        "full": ("text of item 0", None),
        "hash": (None, text_hash("text of item 0")),
        "none": (None, None),
    }
    assert "item_text" not in pair.to_json()


def test_a_request_that_was_not_reranked_is_one_record_without_figures():
    (record,) = expand_request(request_of(0, [], reranked=False, query_id="q-1"), POLICY)
    assert isinstance(record, RequestRecord) and record_from_json(record.to_json()) == record
    body = record.to_json()
    assert (body["reranked"], body["candidates"], body["ood_pairs"], body["query_id"]) == (False, 0, 0, "q-1")
    assert not body.keys() & {
        "ood_share",
        "max_ood_score",
        "max_ood_distance",
    }  # an average over records passes it over
    with pytest.raises(InputError, match=r"request r1: a request that was not reranked has scores"):
        request_of(1, [0.5], reranked=False)


def test_records_from_before_the_field_were_reranked():
    record, *_ = expand_request(request_of(0, [0.99]), POLICY)
    body = record.to_json()
    assert body.pop("reranked") is True
    assert record_from_json(body) == record
    del body["ood_share"]
    with pytest.raises(InputError, match="the record has no ood_share"):
        record_from_json(body)


def test_a_change_of_the_fields_is_a_new_version_of_the_template():
    """A stream of an earlier version is brought up to date by the number alone."""
    body = template()
    fields = json.dumps(body["template"]["mappings"]["properties"], sort_keys=True)
    assert (body["version"], hashlib.sha256(fields.encode()).hexdigest()[:12]) == (2, "5d224b66ab09")


def test_the_mapping_has_exactly_the_fields_of_the_records():
    mapping = template()["template"]["mappings"]
    fields = {f.name for cls in (RequestRecord, PairRecord) for f in dataclasses.fields(cls)}
    assert mapping["dynamic"] == "strict"
    assert set(mapping["properties"]) == fields - {"timestamp"} | {"@timestamp", "kind"}


def test_times_are_utc_milliseconds():
    elsewhere = datetime(2026, 3, 1, 13, 0, 0, 1999, tzinfo=timezone(timedelta(hours=1)))
    head, *_ = expand_request(request_of(0, [], timestamp=elsewhere), POLICY)
    assert head.to_json()["@timestamp"] == "2026-03-01T12:00:00.001Z"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"doc_ids": ["a", "b"]}, "lengths differ"),
        ({"timestamp": datetime(2026, 1, 1)}, "no time zone"),
        ({"route": "fax"}, "unknown route 'fax'"),
        ({"request_id": ""}, "request id is empty"),
    ],
)
def test_requests_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        request_of(0, [0.5], **values)
    with pytest.raises(InputError, match="unknown kind of record None"):
        record_from_json({"record_id": "x"})


def test_half_a_surrogate_pair_is_no_reason_to_lose_a_record():
    request = RankedRequest(
        request_id="r\udc00", timestamp=datetime(2026, 1, 1, tzinfo=UTC), query="a\ud800b",
        documents=["\udfff"], scores=scores_of([0.99]), latency_ms=1.0, route="server",
    )  # fmt: skip
    for record in expand_request(request, POLICY):
        assert json.dumps(record.to_json(), ensure_ascii=False).encode()
        assert record.query == "a\ufffdb"
