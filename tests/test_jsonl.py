"""Each bad line is named."""

from __future__ import annotations

import gzip

import pytest

from darl_opensearch.errors import InputError
from darl_opensearch.io import jsonl
from darl_opensearch.io.jsonl import read_jsonl


def read(tmp_path, data, name="x.jsonl"):
    file = tmp_path / name
    file.write_bytes(data)
    return list(read_jsonl(file))


def test_objects_with_their_places(tmp_path):
    found = read(tmp_path, b'\xef\xbb\xbf{"a": 1}\n\n  \n{"b": "\xc3\xa9"}\r\n{"c": 2}')
    assert [(where.rpartition(", ")[2], value) for where, value in found] == [
        ("line 1", {"a": 1}), ("line 4", {"b": "é"}), ("line 5", {"c": 2}),
    ]  # fmt: skip
    assert found[0][0] == f"{tmp_path / 'x.jsonl'}, line 1"


def test_packed(tmp_path):
    assert read(tmp_path, gzip.compress(b'{"a": 1}\n'), "x.jsonl.gz")[0][1] == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON .*column"),
        (b"[1]", "line 1: an array, not an object"),
        (b"3", "line 1: a number, not an object"),
        (b"null", "line 1: null, not an object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large for a number"),
        (b'{"a": [-1E+400]}', "-1E\\+400 is too large for a number"),
        (b'{"a": ' + 250 * b"1" + b"e99}", "11111111111111111111 is too large for a number"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_bad_lines(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, data)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="nope.jsonl: cannot be read .No such file"):
        list(read_jsonl(tmp_path / "nope.jsonl"))
    with pytest.raises(InputError, match="damaged gzip data"):
        read(tmp_path, b"no gzip", "x.gz")
    with pytest.raises(InputError, match="damaged gzip data"):
        read(tmp_path, gzip.compress(b'{"a": 1}\n' * 99)[:-10], "y.gz")


def test_a_file_without_line_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    with pytest.raises(InputError, match="line 1: the line is longer than"):
        read(tmp_path, b"x" * 101)


def test_numbers_that_only_look_too_large(tmp_path):
    assert read(tmp_path, b'{"a": [1e300, 5e-324, "1e999", 1e-999]}')[0][1] == {"a": [1e300, 5e-324, "1e999", 0.0]}
