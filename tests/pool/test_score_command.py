"""``darl score`` as a process of its own, also one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import darl_opensearch

ROOT = Path(darl_opensearch.__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("DARL_")} | {"PYTHONPATH": str(ROOT)}
# Stands where a real pool would take its time: each shard but the first few is slow, so that the kill hits one.
SLOW = """
import sys, time
from darl_opensearch.pool.worker import ShardScorer
call = ShardScorer.__call__
ShardScorer.__call__ = lambda self, shard: (time.sleep(60 if shard.index == 4 else 0), call(self, shard))[1]
sys.argv = ["darl", *{words!r}]
from darl_opensearch.cli import main
main()
"""


def darl(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "darl_opensearch", *map(str, words)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def words(tiny, pool, folder):
    return [
        "score", tiny.path, pool / "pairs.jsonl", "--items", pool / "items.jsonl", "--out", folder / "s.jsonl",
        "--features", folder / "f.npy", "--shard-pairs", "8", "--threads", "1",
    ]  # fmt: skip


def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(tiny, pool, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert darl(*words(tiny, pool, whole)).returncode == 0
    asked = [str(word) for word in words(tiny, pool, broken)]
    work = broken / "s.jsonl.work"
    process = subprocess.Popen([sys.executable, "-c", SLOW.format(words=asked)], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while not (work / "features-00000003.npy").exists():  # the last part of a shard to be written
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (broken / "s.jsonl").exists()
    # What a kill in the middle of a write leaves: half a file under another name, one part of a shard alone.
    (work / ".scores-00000004.jsonl.tmp").write_text('{"pair": 32, "sco')
    (work / "features-00000003.npy").unlink()
    kept = {p.name: p.stat().st_ino for p in work.glob("scores-0000000[0-2].jsonl")}
    again = darl(*asked, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {
        "pairs": 61, "shards": 8, "reused": 3, "out": str(broken / "s.jsonl"), "features": str(broken / "f.npy"),
        "feature_width": np.load(broken / "f.npy").shape[1], "without_text": 0,
    }  # fmt: skip
    assert len(kept) == 3 and again.stderr == ""
    for name in ("s.jsonl", "f.npy"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(p.name for p in broken.iterdir()) == ["f.npy", "s.jsonl"]


def test_what_a_person_reads(tiny, pool, tmp_path):
    done = darl(*words(tiny, pool, tmp_path))
    assert done.stdout == f"61 pairs: {tmp_path / 's.jsonl'} and {tmp_path / 'f.npy'}\n" and done.stderr == ""
    again = darl(*words(tiny, pool, tmp_path))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        f"darl: {tmp_path / 's.jsonl'}: the file already exists. Choose another, or overwrite it with --fresh.\n"
    )


def test_ray_without_its_extra_is_one_line(tiny, pool, tmp_path):
    code = (
        "import sys\nsys.modules['ray'] = None\n"
        f"sys.argv = ['darl', *{[str(w) for w in words(tiny, pool, tmp_path)]!r}, '--engine', 'ray']\n"
        "from darl_opensearch.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "ray is not installed. Run: " in done.stderr and "'darl-opensearch[ray]'" in done.stderr
    assert not (tmp_path / "s.jsonl.work").exists()
