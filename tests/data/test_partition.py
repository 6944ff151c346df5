"""Splits: everything is in one part, the same texts in the same, and the parts are as large as was asked."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.text import same_text
from tests.helpers.files import read_rows, write_rows
from trainer.data.leakage import Part, find_leaks
from trainer.data.partition import SplitRule, assign, parse_time, write_parts

laws = settings(deadline=None, max_examples=40,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip


def rows(count=40):
    """Queries of two judgments each: no two share a word."""
    return [
        {
            "query_id": f"q{n}", "query": f"word{n} other{n}", "item_id": f"i{m}", "grade": m,
            "slice": "abcd"[n % 4], "timestamp": f"2026-{1 + n // 4:02}-01",
        }
        for n in range(count)
        for m in range(2)
    ]  # fmt: skip


def split(path, rule, out=None):
    assigned = assign(path, rule)
    return assigned, write_parts(path, assigned, out)


@laws
@given(
    words=st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=8, max_size=30),
    dev=st.sampled_from([0.0, 0.1, 0.3]), test=st.sampled_from([0.1, 0.4]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_judgment_is_in_one_part_and_no_part_leaks(words, dev, test, seed, tmp_path):
    path = write_rows(tmp_path / "j.jsonl", [{"query": " ".join(w), "item_id": str(n)} for n, w in enumerate(words)])
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    try:
        _, counts = split(path, SplitRule(dev=dev, test=test, seed=seed), out)
    except InputError as err:
        assert "part would be empty" in err.what
        return
    written = [row for part in counts for row in read_rows(out / f"{part}.jsonl")]
    assert sorted(row["item_id"] for row in written) == sorted(str(n) for n in range(len(words)))
    files = [Part.of_file(out / f"{part}.jsonl") for part in counts]
    for one in files:
        for other in files:
            if one is not other:
                assert find_leaks(one, other).counts == {"query": 0, "near-query": 0}


def test_shares_and_seed(tmp_path):
    path = write_rows(tmp_path / "j.jsonl", rows())
    rule = SplitRule(dev=0.1, test=0.2, seed=5)
    assigned, counts = split(path, rule)
    assert counts == {
        "train": {"queries": 28, "judgments": 56}, "dev": {"queries": 4, "judgments": 8},
        "test": {"queries": 8, "judgments": 16},
    }  # fmt: skip
    assert assign(path, rule) == assigned
    assert assign(path, SplitRule(dev=0.1, test=0.2, seed=6)).part_of != assigned.part_of
    assert set(split(path, SplitRule(dev=0, test=0.5))[1]) == {"train", "test"}


def test_a_part_does_not_hang_on_the_order_of_the_lines_of_a_query(tmp_path):
    forward = write_rows(tmp_path / "a.jsonl", rows())
    again = write_rows(tmp_path / "b.jsonl", [row for n in range(0, 80, 2) for row in rows()[n : n + 2][::-1]])
    assert assign(forward, SplitRule()).part_of == assign(again, SplitRule()).part_of


def test_queries_of_nearly_the_same_words_stay_together(tmp_path):
    chain = ["a b c d e f g h i", "a b c d e f g h i j", "a b c d e f g h i j k", "K J I H G F E D C B A"]
    path = write_rows(tmp_path / "j.jsonl", [{"query": q} for q in chain] + rows())
    assigned = assign(path, SplitRule(dev=0.3, test=0.3))
    assert len({assigned.part_of[same_text(query)] for query in chain}) == 1
    assert (assigned.groups, assigned.together) == (41, 4)
    assert assign(path, SplitRule(threshold=1.0)).groups == 43  # the last two have the same words


def test_slices_held_out(tmp_path):
    mixed = {"query": "word0  OTHER0", "item_id": "x", "slice": "b"}
    path = write_rows(tmp_path / "j.jsonl", [*rows(), mixed])
    assigned, counts = split(path, SplitRule(by="slice", held_out=("a",), dev=0.1))
    assert assigned.mixed == 1
    assert counts["test"] == {"queries": 10, "judgments": 21} and counts["dev"]["queries"] == 3
    assert {q for q, part in assigned.part_of.items() if part == "test"} == {
        f"word{n} other{n}" for n in range(0, 40, 4)
    }
    with pytest.raises(InputError, match=r"no judgment has slice 'aa'. Did you mean 'a'\?"):
        assign(path, SplitRule(by="slice", held_out=("aa",)))


def test_what_came_later_is_tested(tmp_path):
    """Queries 32 to 39 are of September on; one of them was judged in January as well, so it is no news."""
    early = {"query": "word39 other39", "item_id": "x", "timestamp": 1_767_225_600}  # 2026-01-01
    path = write_rows(tmp_path / "j.jsonl", [*rows(), early])
    rule = SplitRule(by="time", cut="2026-09-01", dev=0)
    assigned, counts = split(path, rule)
    assert {q for q, part in assigned.part_of.items() if part == "test"} == {f"word{n} other{n}" for n in range(32, 39)}
    assert (assigned.mixed, counts["train"]["judgments"]) == (1, 67)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a"}, "line 1: there is no field 'timestamp'. Name the field with --time-field"),
        ({"query": "a", "timestamp": "May"}, "line 1: 'timestamp' is 'May', not a date. Write it like 2026-01-31"),
        ({"query": "a", "timestamp": [1]}, "line 1: field 'timestamp' is [1], not a time"),
        ({"query": "a", "timestamp": 10**400}, "1: field 'timestamp' is 1000"),
        ({"query": "a", "timestamp": 1767225600000}, "00, beyond the year 9999. Give seconds"),
        ({"query": "a", "timestamp": "2020-01-01"}, "j.jsonl: the test part would be empty. Choose another --cut"),
        ({"query": ""}, "line 1: field 'query' is empty or not text"),
    ],
)
def test_times_and_queries_that_are_none(row, message, tmp_path):
    path = write_rows(tmp_path / "j.jsonl", [row])
    with pytest.raises(InputError) as caught:
        assign(path, SplitRule(by="time", cut="2026-01-01", dev=0))
    assert message in str(caught.value)


def test_a_time_without_a_zone_is_utc():
    assert parse_time("2026-01-31", "x", "") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_time("2026-01-31T02:00:00+02:00", "x", "") == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"by": "querys"}, r"by is 'querys'. Choose query, slice or time"),
        ({"dev": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"by": "slice"}, "no slice is held out. Name one with --held-out"),
        ({"by": "time"}, "no cut date is given. Give one with --cut"),
    ],
)
def test_rules_that_cannot_be(rule, message):
    with pytest.raises(UsageError, match=message):
        SplitRule(**rule)


def test_slices_where_there_are_none(tmp_path):
    path = write_rows(tmp_path / "j.jsonl", [{"query": "a", "item_id": "i", "grade": 1}])
    with pytest.raises(InputError, match=r"no judgment has slice 'travel'\. No judgment has a slice; split by query"):
        assign(path, SplitRule(by="slice", held_out=("travel",)))


def test_what_json_cannot_write_is_named(tmp_path):
    (path := tmp_path / "j.jsonl").write_text('{"query": "a"}\n{"query": "b", "price": 1e999}\n{"query": "c"}\n')
    with pytest.raises(InputError, match=r"line 2: not JSON \(1e999 is too large for a number\)"):
        assign(path, SplitRule(dev=0.34, test=0.34))


def test_a_pipe_is_no_file_to_read_three_times(tmp_path):
    # ``darl split <(zcat judgments.jsonl.gz)`` would write parts without a line in them.
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: the input cannot be read twice\. Save it to a file first"):
        assign(pipe, SplitRule())


def test_too_few_queries(tmp_path):
    with pytest.raises(InputError, match="the train part would be empty. Label more queries"):
        assign(write_rows(tmp_path / "j.jsonl", rows(2)), SplitRule(dev=0.3, test=0.3))
    with pytest.raises(InputError, match="the file has no judgments"):
        assign(write_rows(tmp_path / "j.jsonl", []), SplitRule())


# darl split


def test_the_command_writes_the_parts(tmp_path, darl):
    path, out = write_rows(tmp_path / "j.jsonl", rows()), tmp_path / "out"
    said = darl("split", path, "--out", out, "--json", "--test", "0.2", "--dry-run")
    assert said.code == 0 and not out.exists() and json.loads(said.out)["folder"] is None
    said = darl("split", path, "--out", out, "--json", "--test", "0.2")
    result = json.loads(said.out)
    assert said.code == 0 and {p.name for p in out.iterdir()} == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    assert result["parts"]["test"] == {"queries": 8, "judgments": len(read_rows(out / "test.jsonl"))}
    assert result["shared"] == {"dev": {"query": 0, "near-query": 0}, "test": {"query": 0, "near-query": 0}}
    kept = [row for part in ("train", "dev", "test") for row in read_rows(out / f"{part}.jsonl")]
    assert sorted(kept, key=str) == sorted(rows(), key=str)  # lines as they were
    said = darl("split", path, "--out", out)
    assert said.code == 2 and "out: it already exists" in said.err
    said = darl("split", path, "--dry-run")
    assert said.code == 0 and said.out.endswith("Nothing was written.\n")
    said = darl("split", path)
    assert said.code == 2 and "no output folder is given. Pass --out or --dry-run" in said.err


def test_the_command_refuses_items_that_leak(tmp_path, darl):
    path = write_rows(tmp_path / "j.jsonl", rows())
    items = write_rows(
        tmp_path / "items.jsonl", [{"id": f"i{n}", "text": "one text for all of them"} for n in range(2)]
    )
    slices = ["split", path, "--out", tmp_path / "out", "--by", "slice", "--held-out", "a", "--dev", "0"]
    said = darl(*slices, "--items", items, "--new-items")
    assert said.code == 1 and "is the same item as" in said.err and not (tmp_path / "out").exists()
    said = darl(*slices, "--items", items)
    assert said.code == 0 and "train and test share 2 pairs of kind item" in said.out
    said = darl("split", path, "--out", tmp_path / "x", "--by", "time", "--cut", "soon")
    assert said.code == 1 and "'--cut' is 'soon', not a date" in said.err


def test_the_command_says_what_to_name_in_the_configuration(tmp_path, monkeypatch, darl):
    path = write_rows(tmp_path / "j.jsonl", rows())
    monkeypatch.chdir(tmp_path)
    said = darl("split", path, "--out", "out", "--test", "0")
    assert said.out.endswith(
        f'[data]\n  judgments = "{tmp_path / "out" / "train.jsonl"}"\n  dev = "{tmp_path / "out" / "dev.jsonl"}"\n'
    )
