"""``darl warm`` on a real Ray of two workers: the same states as from this machine, and no others are encoded."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from darl_opensearch.errors import DarlError
from darl_opensearch.pool import EngineOptions
from darl_opensearch.states.store import FILE
from darl_opensearch.warm import WarmOptions, on_ray, warm_files
from darl_opensearch.warm.chunks import CHUNK, ItemChunk
from tests.helpers.files import read_rows, write_rows
from tests.helpers.trained import SAMPLE

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning")  # Ray's, of its own sockets

ROWS = [{**row, "name": f"{row['name']} {n}"} for n in range(5) for row in read_rows(SAMPLE / "items.jsonl")]
RAY = EngineOptions(engine="ray", workers=2)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("items") / "items.jsonl", ROWS)


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def local(request, small, items, tmp_path_factory):
    """Options, report and states of the local engine."""
    options = WarmOptions(states=tmp_path_factory.mktemp("local"), int8=request.param)
    return options, warm_files(small[1], [items, items], options), read_packed(options)


def read_packed(options):
    with closing(sqlite3.connect(options.states / FILE)) as db:
        return dict(db.execute("SELECT key, value FROM states"))


def use(monkeypatch, encode):
    """Let workers encode otherwise. A local class travels by value."""

    class Encoder(on_ray.ChunkEncoder):
        def __call__(self, chunk):
            return encode(super().__call__, chunk)

    monkeypatch.setattr(on_ray, "ChunkEncoder", Encoder)


def test_states_and_counts_are_those_of_the_local_engine(ray, small, items, tmp_path, monkeypatch, local):
    def dies_once(encode, chunk):
        if chunk.index == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(chunk)

    use(monkeypatch, dies_once)
    options, report, packed = local
    read = []
    there = WarmOptions(states=tmp_path / "states", int8=options.int8)
    on_ray_report = warm_files(
        small[1], [items, items], there, engine=RAY, on_item=lambda *counts: read.append(counts)
    )  # fmt: skip
    assert (tmp_path / "died").exists() and read[-1] == (2 * len(ROWS),) * 2
    assert on_ray_report == report and report.encoded == len(packed) > CHUNK
    assert read_packed(there) == packed
    again = warm_files(small[1], [items], there)
    assert (again.encoded, again.items, again.store["written"]) == (0, report.items, 0)


def test_a_run_that_broke_off_goes_on_and_sends_only_what_is_missing(ray, small, items, tmp_path, monkeypatch):
    def break_off(_read, _total):
        raise DarlError("out of power")

    def told(encode, chunk):
        with (tmp_path / "sent").open("a") as file:
            file.write("".join(f"{key.hex()}\n" for key in chunk.missing))
        return encode(chunk)

    options = WarmOptions(states=tmp_path / "states")
    with pytest.raises(DarlError, match="out of power"):
        warm_files(small[1], [items], options, engine=RAY, on_item=break_off)
    first = read_packed(options)
    assert len(first) in (CHUNK, len(ROWS) - CHUNK)  # one of two chunks
    use(monkeypatch, told)
    report = warm_files(small[1], [items], options, engine=RAY)
    assert (report.items, report.encoded) == (len(ROWS), len(ROWS) - len(first))
    sent = {bytes.fromhex(line) for line in (tmp_path / "sent").read_text().split()}
    assert sent == read_packed(options).keys() - first.keys()
    dry = warm_files(small[1], [items], options, engine=RAY, dry_run=True)
    assert (dry.items, dry.missing, dry.encoded) == (len(ROWS), 0, 0)


def test_a_chunk_that_kills_its_workers_is_named():
    chunk = ItemChunk(index=1, where="items.jsonl, line 513", read=512, without_text=0, distinct=3, missing={})
    assert str(chunk.killed_workers(3)) == (
        "items.jsonl, line 513: the 512 items from here on killed their worker 3 times. Check the workers' memory."
    )


def test_the_command(ray, darl, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["warm", small[1].path, "items.jsonl", "--states", "states", "--json"]
    items = write_rows(tmp_path / "items.jsonl", ROWS[:8])
    done = darl(*words, "--engine", "ray", "--workers", "1")
    assert json.loads(done.out)["encoded"] == 8, done.err
    assert json.loads(darl(*words).out)["there"] == 8
    items.write_text(items.read_text() + "{\n")
    ended = darl(*words, "--engine", "ray")
    assert (ended.code, ended.err.count("\n")) == (1, 1) and f"{items}, line 9: not JSON" in ended.err
    os.mkfifo("pipe")
    ended = darl("warm", small[1].path, "pipe", "--states", "states", "--engine", "ray")
    assert ended.code == 1 and "pipe: the input cannot be read twice" in ended.err
