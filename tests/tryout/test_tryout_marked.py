"""Judgments made on the page: what the file then holds, and what it never loses."""

from __future__ import annotations

import json
import os
import threading

import pytest

from darl_opensearch.cluster.history import this_user
from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import read_judgments
from darl_opensearch.tryout.marked import MarkedJudgments
from tests.helpers.files import read_rows, write_rows

EVIL = '</script><img src=x onerror="alert(1)">\u2028'
ITEMS = {name: Item(name, "text", "") for name in ("a", "b", "c")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "judgments.jsonl"


def opened(path, k=3):
    return MarkedJudgments.holding(path, k)


def test_a_mark_is_a_judgment_that_training_reads(path):
    with opened(path) as marked:
        assert marked.grades("bike") == {} and not path.exists()
        marked.mark(" bike\n", "a", 2)
        marked.mark("bike", "b", 0)
        marked.mark(EVIL, "c", 1)
        assert marked.grades("Bike ") == {"a": 2, "b": 0} and marked.marked_here("BIKE") == ["a", "b"]
    first, _, evil = read_rows(path)
    assert first.pop("at") <= "2999" and first == {
        "query": "bike", "item_id": "a", "grade": 2, "judge": "try", "by": this_user(),
    }  # fmt: skip
    assert evil["query"] == EVIL.strip()
    judged = read_judgments(path, ITEMS, 3)
    assert [(q.query, q.item_ids, q.grades) for q in judged] == [
        ("bike", ("a", "b"), (2, 0)), (EVIL.strip(), ("c",), (1,)),
    ]  # fmt: skip


def test_a_changed_mind_replaces_and_other_lines_stay_as_they_are(path):
    others = b'\xef\xbb\xbf{"query":"x", "item_id" : "a","grade":1,"n":1e0}\n\n'
    own = {"query_id": "q7", "query": "my bike", "item_id": "a", "grade": 0, "slice": "s", "grade_probs": [1, 0, 0]}
    last = b'{"query": "y", "item_id": "b", "grade": 2}'  # without a line break
    path.write_bytes(others + json.dumps(own).encode() + b"\n" + last)
    with opened(path) as marked:
        marked.mark("My  BIKE", "a", 2)
        marked.mark("my bike", "c", 1)
        marked.mark("my bike", "a", 1)
        start, rest = path.read_bytes()[: len(others)], path.read_bytes()[len(others) :].splitlines()
        assert start == others and rest[1] == last
        replaced, added = json.loads(rest[0]), json.loads(rest[2])
        assert "grade_probs" not in replaced and replaced["judge"] == "try"
        assert [replaced[k] for k in ("query_id", "query", "item_id", "grade", "slice")] == [
            "q7",
            "my bike",
            "a",
            1,
            "s",
        ]
        assert [added[k] for k in ("query_id", "query", "item_id", "grade", "slice")] == ["q7", "my bike", "c", 1, "s"]
        assert len(read_judgments(path, ITEMS, 3)) == 3
        marked.take_back("my bike", "a")
        marked.take_back("my bike", "c")
        assert path.read_bytes() == others + json.dumps(own).encode() + b"\n" + last + b"\n"
        with pytest.raises(InputError, match="was not given here"):
            marked.take_back("my bike", "a")


def test_an_editor_may_write_meanwhile(path):
    with opened(path) as marked:
        marked.mark("bike", "a", 2)
        write_rows(path, [*read_rows(path), {"query": "bike", "item_id": "b", "grade": 1}])
        assert marked.grades("bike") == {"a": 2, "b": 1}
        marked.mark("bike", "c", 0)
        assert [row["item_id"] for row in read_rows(path)] == ["a", "b", "c"]
        path.write_text("{")
        with pytest.raises(InputError, match=r"judgments.jsonl, line 1: not JSON"):
            marked.mark("bike", "a", 1)
        assert path.read_text() == "{"
        path.unlink()
        assert marked.grades("bike") == {}


def test_files_that_cannot_be_marked_in(path, tmp_path):
    write_rows(path, [{"query": "Bike", "query_id": q, "item_id": "a", "grade": g} for q, g in (("1", 0), ("2", 2))])
    with pytest.raises(InputError, match=r"line 2: the pair of query 'Bike' and item 'a' has grade 2 here, but had 0"):
        opened(path).__enter__()
    write_rows(path, [{"query": "bike", "item_id": "a", "grade": 3}])
    with pytest.raises(InputError, match=r"line 1: field 'grade' is 3, not a whole number in 0..2"):
        opened(path).__enter__()
    with pytest.raises(UsageError, match="packed file"):
        opened(tmp_path / "x.jsonl.gz").__enter__()
    with pytest.raises(UsageError, match="folder does not exist"):
        opened(tmp_path / "none/x.jsonl").__enter__()
    with opened(tmp_path / "x.jsonl"), pytest.raises(DarlError, match="another darl try writes to this file"):
        opened(tmp_path / "x.jsonl").__enter__()
    with opened(tmp_path / "x.jsonl") as marked, pytest.raises(InputError, match=r"grade 3 is not in 0..2"):
        marked.mark("bike", "a", 3)


def test_a_full_disk_leaves_the_file_whole(path, monkeypatch):
    with opened(path) as marked:
        marked.mark("bike", "a", 2)
        before = path.read_bytes()

        def full(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DarlError, match=r"cannot be written \(No space left on device\)"):
            marked.mark("bike", "b", 1)
        assert path.read_bytes() == before and not list(path.parent.glob("*.tmp"))
        monkeypatch.undo()
        assert marked.grades("bike") == {"a": 2} and marked.marked_here("bike") == ["a"]


def test_a_link_stays_one_and_rights_stay(path, tmp_path):
    real = write_rows(tmp_path / "real.jsonl", [{"query": "bike", "item_id": "b", "grade": 1}])
    real.chmod(0o640)
    path.symlink_to(real)
    with opened(path) as marked:
        marked.mark("bike", "a", 2)
    assert path.is_symlink() and len(read_rows(real)) == 2 and real.stat().st_mode & 0o777 == 0o640


def test_marks_of_several_threads_all_stay(path):
    with opened(path) as marked:
        threads = [threading.Thread(target=marked.mark, args=(f"query {n}", "a", n % 3)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(row["query"] for row in read_rows(path)) == sorted(f"query {n}" for n in range(12))
