"""The store of item states: what is kept comes back whole, or not at all."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from darl_opensearch.errors import UsageError
from darl_opensearch.io.sqlite import open_shared
from darl_opensearch.states import ItemState, StateKeys, StateStore, pack_state, unpack_state
from darl_opensearch.states import store as store_module
from darl_opensearch.states.store import FILE, PAGE_BYTES

SMALL = 64 * PAGE_BYTES


def make_state(seed: int, tokens: int = 20, width: int = 384) -> ItemState:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(tokens, width)).astype(np.float32)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    content = np.arange(tokens) % 5 > 0
    return ItemState.of(states, content, states[:1])


def make_key(number: int) -> bytes:
    return StateKeys({"encoder": "a"}).of(str(number))


def same(one: ItemState, two: ItemState) -> bool:
    names = ("tokens", "scales", "content", "pooled")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_eight_bits_keep_similarities():
    rng = np.random.default_rng(0)
    states, query = (rng.normal(size=(50, 384)).astype(np.float32) for _ in range(2))
    states, query = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (states, query))
    state = ItemState.of(states, np.ones(50, bool), states[:1])
    again = (state.tokens.astype(np.float32) - 128) * state.scales[:, None]
    assert np.abs(again @ query.T - states @ query.T).max() < 0.002
    assert np.abs(again - states).max() <= state.scales.max() / 2 + 1e-7
    assert len(pack_state(b"k" * 16, state)) == 12 + 50 * 384 + 50 * 5 + 384 * 4


def test_a_state_of_zeros_stays_finite():
    state = ItemState.of(np.zeros((2, 8), np.float32), np.ones(2, bool), np.zeros((1, 8), np.float32))
    assert (state.tokens == 128).all() and np.isfinite(state.scales).all()


def test_what_was_packed_is_unpacked():
    state = make_state(1)
    assert same(unpack_state(make_key(1), pack_state(make_key(1), state)), state)


@pytest.mark.parametrize("place", [0, 3, 4, 5, 6, 8, 16, 500, -1, -1600])
def test_a_flipped_bit_is_seen_wherever_it_is(place):
    packed = bytearray(pack_state(make_key(1), make_state(1)))
    packed[place] ^= 4
    assert unpack_state(make_key(1), bytes(packed)) is None


def test_bytes_of_another_key_or_length_are_refused():
    packed = pack_state(make_key(1), make_state(1))
    assert unpack_state(make_key(2), packed) is None
    for damaged in (b"", packed[:7], packed[:-1], packed + b"x"):
        assert unpack_state(make_key(1), damaged) is None


def test_keys_tell_texts_and_encoders_apart():
    about = {"encoder": "a", "tokenizer": "t", "item_cap": 96, "precision": "int8"}
    keys = {StateKeys(about | change).of(text) for text in ("x", "y") for change in (
        {}, {"encoder": "b"}, {"tokenizer": "u"}, {"item_cap": 95}, {"precision": "float32"},
    )}  # fmt: skip
    assert len(keys) == 10 and {len(key) for key in keys} == {16}
    assert StateKeys(about).of("é") == StateKeys(dict(reversed(about.items()))).of("é")


def test_it_comes_back_from_memory_and_from_disk(tmp_path):
    states = {make_key(n): make_state(n) for n in range(5)}
    with StateStore(tmp_path) as store:
        store.put(states)
        assert all(same(state, states[key]) for key, state in store.get(list(states)).items())
        assert store.counts.hits == 5
    with StateStore(tmp_path) as store:
        found = store.get([*states, make_key(9), make_key(0)])
        assert found.keys() == states.keys() and all(same(state, states[key]) for key, state in found.items())
        assert (store.counts.hits, store.counts.misses, store.to_json()["in_memory"]) == (5, 1, 5)
        assert store.contains([*states, make_key(9)]) == set(states)


def test_without_a_folder_it_is_in_memory(tmp_path):
    store = StateStore(None, memory_bytes=40_000)
    store.put({make_key(n): make_state(n) for n in range(9)})
    assert list(store.get([make_key(n) for n in range(9)])) == [make_key(n) for n in range(5, 9)]  # the last used
    store.flush()
    store.close()
    assert not list(tmp_path.iterdir())


def test_the_least_recently_used_leaves_memory():
    store = StateStore(None, memory_bytes=3 * make_state(0).nbytes)
    for n in range(3):
        store.put({make_key(n): make_state(n)})
    store.get([make_key(0)])
    store.put({make_key(3): make_state(3)})
    assert store.get([make_key(n) for n in range(4)]).keys() == {make_key(n) for n in (0, 2, 3)}
    assert store.to_json()["memory_bytes"] <= 3 * make_state(0).nbytes


def test_the_oldest_leave_the_disk_and_the_file_stays_bounded(tmp_path):
    with StateStore(tmp_path, disk_bytes=SMALL, memory_bytes=0) as store:
        for n in range(900):
            store.put({make_key(n): make_state(n)}, wait=True)
        store.flush()
        assert store.counts.written == 900 and store.counts.evicted > 500 and store.counts.errors == 0
        there = store.contains([make_key(n) for n in range(900)])
        assert make_key(899) in there and make_key(0) not in there
        newest = [n for n in range(900) if make_key(n) in there]
        assert newest == list(range(newest[0], 900)) and len(newest) > 50
    assert (tmp_path / FILE).stat().st_size < 4 * SMALL


def test_a_damaged_entry_is_counted_and_written_anew(tmp_path):
    key, state = make_key(1), make_state(1)
    with StateStore(tmp_path) as store:
        store.put({key: state})
    with sqlite3.connect(tmp_path / FILE) as db:
        (value,) = db.execute("SELECT value FROM states").fetchone()
        db.execute("UPDATE states SET value = ?", (value[:100] + bytes([value[100] ^ 1]) + value[101:],))
    with StateStore(tmp_path) as store:
        assert store.get([key]) == {} and store.counts.damaged == 1
        store.put({key: state})
    with StateStore(tmp_path) as store:
        assert same(store.get([key])[key], state)


def test_a_file_that_is_none_is_one_line_and_all_goes_on(tmp_path, caplog):
    (tmp_path / FILE).write_bytes(b"no database" * 5000)
    with caplog.at_level(logging.WARNING), StateStore(tmp_path) as store:
        store.put({make_key(1): make_state(1)})
        assert make_key(1) in store.get([make_key(1)])
        assert store.counts.errors == 1
    assert len(caplog.records) == 1 and str(tmp_path / FILE) in caplog.text


def test_a_disk_that_is_full_costs_states_and_one_line_until_there_is_space(tmp_path, caplog, monkeypatch):
    """SQLite's own page limit stands in for the disk: the errors are the real ones."""
    connected = []

    def connect(path, **options):
        db = open_shared(path, **options)
        connected.append(db)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 5}")
        return db

    monkeypatch.setattr(store_module, "open_shared", connect)
    with caplog.at_level(logging.WARNING), StateStore(tmp_path, memory_bytes=0) as store:
        for n in range(30):
            store.put({make_key(n): make_state(n)}, wait=True)
            store.flush()
        there = store.get([make_key(n) for n in range(30)])
        assert there.keys() == {make_key(n) for n in range(len(there))} and 0 < len(there) < 25
        assert all(same(there[make_key(n)], make_state(n)) for n in range(len(there)))
        assert store.counts.written == len(there)
        assert store.counts.not_kept == store.counts.errors == 30 - len(there)
        connected[0].execute("PRAGMA max_page_count = 1000000")  # the writer's
        store.put({make_key(99): make_state(99)}, wait=True)
        store.flush()
        assert make_key(99) in store.get([make_key(99)])
    assert len(caplog.records) == 1 and "disk is full" in caplog.text


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from tests.states.test_state_store import StateStore, make_key, make_state, same
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[1])
if os.access(folder, os.W_OK) or not os.access(folder.parent, os.X_OK):
    sys.exit(5)
with StateStore(folder, memory_bytes=1 << 20) as store:
    found = store.get([make_key(n) for n in range(5)])
    assert all(same(state, make_state(n)) for n in range(5) if (state := found.get(make_key(n))))
    store.put({make_key(9): make_state(9)})
    store.flush()
    assert make_key(9) in store.get([make_key(9)])
    print(len(found), len(store.contains([make_key(n) for n in range(5)])), store.counts.not_kept, store.counts.errors)
"""


@pytest.fixture
def folder_for_all():
    """A folder that any user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        (Path(scratch) / "states").mkdir()
        yield Path(scratch) / "states"


def read_without_privileges(folder):
    """Found, contained, not kept and errors, and what was logged, as a user who may not write the folder."""
    try:
        folder.chmod(0o555)
        words = [sys.executable, "-c", UNPRIVILEGED, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    finally:
        folder.chmod(0o755)
    if done.returncode == 5:
        pytest.skip("no user here is kept from writing")
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()], done.stderr.splitlines()


def test_a_folder_that_is_read_only_is_read(folder_for_all):
    with StateStore(folder_for_all) as store:
        store.put({make_key(n): make_state(n) for n in range(5)})
    counts, lines = read_without_privileges(folder_for_all)
    assert counts == [5, 5, 1, 1]
    assert len(lines) == 1 and f"{folder_for_all / FILE} can be read only" in lines[0]


def test_a_folder_that_is_read_only_is_read_beside_a_process_that_fills_it(folder_for_all):
    with StateStore(folder_for_all) as store:
        store.put({make_key(n): make_state(n) for n in range(5)})
        store.flush()
        assert (folder_for_all / f"{FILE}-wal").stat().st_size
        counts, lines = read_without_privileges(folder_for_all)
    assert counts == [5, 5, 1, 1] and len(lines) == 1 and "cannot be written (attempt to write a readonly" in lines[0]


def test_an_empty_folder_that_is_read_only_costs_states_and_one_line(folder_for_all):
    counts, lines = read_without_privileges(folder_for_all)
    assert counts == [0, 0, 1, 1]
    assert len(lines) == 1 and f"{folder_for_all / FILE} cannot be opened" in lines[0]


def keys_of_encoder(name, count):
    keys = StateKeys({"encoder": name})
    return [keys.of(str(n)) for n in range(count)]


def test_states_of_two_encoders_stay_while_the_bound_holds_both_and_then_the_earlier_ones_go(tmp_path):
    """What a rollback finds: all of its states, or those that were written last."""
    earlier, later = keys_of_encoder("earlier", 250), keys_of_encoder("later", 250)
    state = make_state(0, tokens=10)
    with StateStore(tmp_path, disk_bytes=SMALL, memory_bytes=0) as store:
        assert store.room() is None
        for keys in (earlier, later[:50]):
            store.put(dict.fromkeys(keys, state), wait=True)
        store.flush()
        assert store.counts.evicted == 0 and store.contains(earlier) == set(earlier)
        room = store.room()
        assert 0 < room < 200
        store.put(dict.fromkeys(later[50 : 50 + int(0.9 * room)], state), wait=True)
        store.flush()
        assert store.counts.evicted == 0  # as it was told
        store.put(dict.fromkeys(later[50:], state), wait=True)
        store.flush()
        assert store.counts.evicted > 0
        kept = store.contains(earlier)
        assert 0 < len(kept) < len(earlier) and kept == set(earlier[-len(kept) :])
        assert store.contains(later) == set(later)


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with StateStore(tmp_path / "file" / "states") as store:
        store.put({make_key(1): make_state(1)})
        assert make_key(1) in store.get([make_key(1)])
        assert store.counts.errors == store.counts.not_kept == 1
    assert "cannot be opened" in caplog.text


def test_bounds_that_hold_nothing():
    with pytest.raises(UsageError, match="bytes hold no states"):
        StateStore(None, disk_bytes=1000)


FILLING = """
import sys
from pathlib import Path
from tests.states.test_state_store import StateStore, make_key, make_state
first, count, bound = (int(word) for word in sys.argv[2:5])
with StateStore(Path(sys.argv[1]), disk_bytes=bound, memory_bytes=0) as store:
    for n in range(first, first + count):
        store.put({make_key(n): make_state(n)}, wait=True)
        if n == first + 50:
            store.flush()
            print("filling", flush=True)
print(store.counts.errors)
"""


def fill(folder, first, count, bound=1 << 30):
    words = [sys.executable, "-c", FILLING, str(folder), str(first), str(count), str(bound)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_fill_one_folder_at_once(tmp_path):
    both = [fill(tmp_path, first, 300) for first in (0, 200)]
    for process in both:
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0 and out.split()[-1] == "0"
    with StateStore(tmp_path) as store:
        found = store.get([make_key(n) for n in range(500)])
        assert len(found) == 500 and all(same(found[make_key(n)], make_state(n)) for n in (0, 250, 499))


def test_killed_while_filling_it_opens_and_has_what_was_committed(tmp_path):
    process = fill(tmp_path, 0, 1_000_000)
    assert process.stdout.readline() == "filling\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with StateStore(tmp_path) as store:
        found = store.get([make_key(n) for n in range(51)])
        assert len(found) == 51 and store.counts.damaged == 0
        assert all(same(found[make_key(n)], make_state(n)) for n in range(51))
