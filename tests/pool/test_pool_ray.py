"""The same pools on a real Ray of two workers, one of which is killed."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest

import darl_opensearch
from darl_opensearch.errors import BundleError, DarlError
from darl_opensearch.pool import on_ray, score_pool
from darl_opensearch.pool.on_ray import MOST_ATTEMPTS, RayWorker
from darl_opensearch.pool.work import ShardFolder

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning")  # Ray's, of its own sockets

ROOT = Path(darl_opensearch.__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "RAY_"))} | {"PYTHONPATH": str(ROOT)}


def run(tiny, pool, out, **options):
    common = {"items": pool / "items.jsonl", "features": out.with_suffix(".npy"), "shard_pairs": 4}
    return score_pool(tiny.path, pool / "pairs.jsonl", out=out, **(common | options))


def use(monkeypatch, worker):
    """Let Ray run another worker. The classes below are local ones, which travel by value."""
    monkeypatch.setattr(on_ray, "run_on_ray", functools.partial(on_ray.run_on_ray, worker=worker))


def test_a_killed_worker_changes_nothing(ray, tiny, pool, tmp_path, monkeypatch):
    class DiesOnce(RayWorker):
        def compute(self, shard):
            if shard.index == 7 and not (tmp_path / "died").exists():
                (tmp_path / "died").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            with (tmp_path / "computed").open("a") as file:
                file.write(f"{os.getpid()} {shard.index}\n")
            return super().compute(shard)

    use(monkeypatch, DiesOnce)
    run(tiny, pool, tmp_path / "local.jsonl")
    seen = []
    told = lambda what, done, total: seen.append((what, done, total))  # noqa: E731
    report = run(tiny, pool, tmp_path / "ray.jsonl", engine="ray", workers=2, on_progress=told)
    assert (report.pairs, report.shards, report.reused) == (61, 16, 0)
    computed = [line.split() for line in (tmp_path / "computed").read_text().splitlines()]
    died = (tmp_path / "died").read_text()
    assert died != str(os.getpid()) and len({pid for pid, _ in computed} - {died}) == 2  # the other, and its successor
    local, distributed = ([json.loads(x) for x in (tmp_path / f"{n}.jsonl").open()] for n in ("local", "ray"))
    assert [row["pair"] for row in distributed] == list(range(61))
    for one, other in zip(local, distributed, strict=True):
        for name in ("score", "grade_probs", "ood_score", "ood_distance"):
            np.testing.assert_allclose(one.pop(name), other.pop(name), rtol=0, atol=1e-6)
        assert one == other
    # Closer than that, in fact: a shard is computed alike wherever that is.
    for ending in (".jsonl", ".npy"):
        assert (tmp_path / f"local{ending}").read_bytes() == (tmp_path / f"ray{ending}").read_bytes()
    assert seen[-1] == ("scoring", 61, 61)
    assert ray.is_initialized()  # it was there before


def test_ray_goes_on_where_the_local_engine_broke_off(ray, tiny, pool, tmp_path, monkeypatch):
    run(tiny, pool, tmp_path / "whole.jsonl", features=None)
    store = ShardFolder.store

    def failing(work, shard, files):
        if shard == 5:
            raise DarlError("the disk is full")
        store(work, shard, files)

    with monkeypatch.context() as patch, pytest.raises(DarlError, match="the disk is full"):
        patch.setattr(ShardFolder, "store", failing)
        run(tiny, pool, tmp_path / "s.jsonl", features=None)
    report = run(tiny, pool, tmp_path / "s.jsonl", features=None, engine="ray", workers=1)
    assert report.reused == 5
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_shard_that_ends_every_worker_is_given_up(ray, tiny, pool, tmp_path, monkeypatch):
    class Deadly(RayWorker):
        def compute(self, shard):
            if shard.index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().compute(shard)

    use(monkeypatch, Deadly)
    with pytest.raises(DarlError, match=f"pairs 8 to 11 killed their worker {MOST_ATTEMPTS} times") as caught:
        run(tiny, pool, tmp_path / "s.jsonl", engine="ray", workers=1)
    assert caught.value.where.endswith("pairs.jsonl, line 9") and "memory" in caught.value.todo


def test_what_goes_wrong_far_away_is_said_here(ray, tiny, pool, tmp_path, monkeypatch):
    class Refuses(RayWorker):
        def compute(self, shard):
            raise BundleError("another bundle", where="far away", todo="copy it")

    class Fails(RayWorker):
        def compute(self, shard):
            raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        use(patch, Refuses)
        with pytest.raises(BundleError) as caught:
            run(tiny, pool, tmp_path / "s.jsonl", engine="ray", workers=1)
    assert str(caught.value) == "far away: another bundle. Copy it."
    use(monkeypatch, Fails)
    with pytest.raises(DarlError, match=r"a worker failed \(ZeroDivisionError: a bug\). Check Ray's logs there"):
        run(tiny, pool, tmp_path / "s.jsonl", engine="ray", workers=1)


KILLED = """
import functools, os, signal, sys
from darl_opensearch.pool import on_ray

class DiesOnce(on_ray.RayWorker):
    def compute(self, shard):
        if shard.index == 3 and not os.path.exists({mark!r}):
            open({mark!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(shard)

on_ray.run_on_ray = functools.partial(on_ray.run_on_ray, worker=DiesOnce)
sys.argv = ["darl", *{words!r}]
from darl_opensearch.cli import main
main()
"""


def python(*words, **variables):
    return subprocess.run(
        [sys.executable, *words], env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=240
    )


def asked(tiny, pool, out):
    words = ["score", tiny.path, pool / "pairs.jsonl", "--items", pool / "items.jsonl", "--out", out, "--engine", "ray"]
    return [str(word) for word in words]


def test_the_command_starts_a_ray_of_its_own_and_leaves_nothing(tiny, pool, tmp_path):
    run(tiny, pool, tmp_path / "local.jsonl", features=None)
    words = [*asked(tiny, pool, tmp_path / "s.jsonl"), "--shard-pairs", "4", "--workers", "2", "--json"]
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        done = python("-c", KILLED.format(mark=str(tmp_path / "died"), words=words), TMPDIR=folder)
        left = [path.name for path in Path(folder).glob("darl-ray-*")]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists() and "failed" in done.stderr  # Ray tells of it, but not on stdout
    assert json.loads(done.stdout)["pairs"] == 61
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert left == []


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        (
            "127.0.0.1:1",
            1,
            "darl: 127.0.0.1:1: Ray cannot be reached ([Errno 111] Connection refused). Check ray status",
        ),
        ("ray://somewhere:10001", 2, "darl: ray://somewhere:10001 is an address for clients outside the cluster."),
    ],
)
def test_an_address_where_no_cluster_is(tiny, pool, tmp_path, address, code, message):
    done = python("-m", "darl_opensearch", *asked(tiny, pool, tmp_path / "s.jsonl"), "--address", address)
    assert done.returncode == code and done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1


def test_workers_are_as_many_as_there_is_room_for():
    cluster = types.SimpleNamespace(cluster_resources=lambda: {"CPU": 7.0, "memory": 1e9})
    assert on_ray.count_workers(cluster, {"num_cpus": 2}, "here") == 3
    with pytest.raises(DarlError, match="here: a worker needs 1 gpus, but the cluster has 0. Add machines"):
        on_ray.count_workers(cluster, {"num_gpus": 1}, "here")
