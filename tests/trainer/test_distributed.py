"""Several processes, really started: they end where one ends, write once, and stop when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from darl_opensearch import cli
from darl_opensearch.errors import UsageError
from darl_opensearch.node import process
from tests.helpers.forked import Forked
from tests.helpers.training_project import write_project
from trainer import distributed
from trainer.config import read_config
from trainer.stages import checkpoint, plan

ROOT = Path(cli.__file__).parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("DARL_")} | {
    "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip

# What the processes run: a module, so that `launch` can name it.
WORK = """
import json, os, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)
from tests.trainer import test_fit
from darl_opensearch.errors import DarlError, InputError
from trainer import distributed


def begin(task, folder, options):
    try:
        with distributed.join("cpu"):
            globals()[task](Path(folder), json.loads(options))
    except DarlError as err:
        sys.stderr.write(f"said: {err}\\n")
        sys.exit(err.exit_code)


def say(folder, name, value):
    (folder / f"{name}-{distributed.rank()}.json").write_text(json.dumps(value))


def talk(folder, options):
    rank, world = distributed.rank(), distributed.world()
    tensor = torch.full((3,), float(rank))
    distributed.broadcast_tensors([tensor])
    built = folder / "built"

    def build():
        if distributed.is_main():
            built.write_text("once")
        return built.read_text()

    say(folder, "talk", {
        "world": world, "main": distributed.is_main(), "word": distributed.broadcast(f"of {rank}"),
        "total": distributed.total(torch.tensor([1.0, rank])).tolist(), "gathered": distributed.gather(rank),
        "tensor": tensor.tolist(), "built": distributed.main_first(build),
    })


def descend(folder, options):
    settings = test_fit.with_(**options)
    model = test_fit.Toy(0.0)
    loss = test_fit.Remembering()
    descent = test_fit.make(
        folder, settings, model=model, loss=loss, source=test_fit.Points(9)
    )
    descent.run()
    say(folder, "end", {
        "weights": {n: t.tolist() for n, t in model.state_dict().items()}, "history": descent.history,
        "loss": float(loss.weight),
    })


def die(folder, options):
    def advance(done, total):
        if done == 5 and distributed.rank() == options["rank"]:
            os.kill(os.getpid(), signal.SIGKILL)

    test_fit.make(folder, test_fit.with_(checkpoint_steps=1)).run(advance)


def wait(folder, options):
    say(folder, "pid", os.getpid())
    distributed.barrier()
    time.sleep(100)


def refuse(folder, options):
    if distributed.rank() == options.get("rank", distributed.rank()):
        raise InputError("line 3 is bad", where="judgments.jsonl", todo="correct it")
    distributed.barrier()


def first_refuses(folder, options):
    def work():
        if distributed.is_main():
            raise InputError("line 3 is bad", where="judgments.jsonl", todo="correct it")

    distributed.main_first(work)


def poisoned(folder, options):
    class Poisoned(test_fit.Squared):
        def __call__(self, *args, **options):
            return super().__call__(*args, **options) * float("nan" if distributed.rank() == 1 else 1)

    test_fit.make(folder, test_fit.SETTINGS, loss=Poisoned()).run()


if __name__ == "__main__":
    import distributed_work

    world, *args = sys.argv[1:]
    if "as_usual" not in args[-1]:
        distributed.START_METHOD = "fork"  # all is loaded here; `darl train --processes` starts them as it should
    try:
        if int(world) > 1:
            for number in (signal.SIGINT, signal.SIGTERM):  # as the command has them
                signal.signal(number, signal.default_int_handler)  # a shell ignores SIGINT for what runs behind it
            distributed.launch(distributed_work.begin, tuple(args), int(world))
        else:
            begin(*args)
    except KeyboardInterrupt:
        sys.exit(130)
    except DarlError as err:
        sys.stderr.write(f"launcher: {err}\\n")
        sys.exit(err.exit_code)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "distributed_work.py").write_text(textwrap.dedent(WORK))
    return folder


def start(work: Path, task: str, folder: Path, *, world: int = 2, **options) -> tuple[int, str]:
    """Exit code and stderr of some processes."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = ENVIRONMENT | {"PYTHONPATH": f"{work}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    words = [work / "distributed_work.py", world, task, folder, json.dumps(options)]
    ended = Forked(words, environment).wait(240)
    return ended.code, ended.err


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(text) for path in sorted(folder.glob(f"{name}-*.json")) if (text := path.read_text())]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_the_one_that_started_them(work, tmp_path, number):
    """A signal to that one alone, as a job runner sends it; killed, its processes are not its children."""
    environment = ENVIRONMENT | {"PYTHONPATH": f"{work}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    options = json.dumps({"as_usual": True} if number == signal.SIGKILL else {})
    launcher = Forked([work / "distributed_work.py", 2, "wait", tmp_path, options], environment)
    limit = time.monotonic() + 120
    while len(pids := read(tmp_path, "pid")) < 2:
        assert time.monotonic() < limit and launcher.poll() is None
        time.sleep(0.05)
    os.kill(launcher.pid, number)
    launcher.wait(distributed.GRACE - 2)  # they are told to end, not waited for
    limit = time.monotonic() + 40
    while any(process.look(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_they_talk(work, tmp_path):
    code, err = start(work, "talk", tmp_path)
    assert code == 0, err
    both = {"world": 2, "word": "of 0", "total": [2.0, 1.0], "tensor": [0.0] * 3, "built": "once"}
    assert read(tmp_path, "talk") == [
        both | {"main": True, "gathered": [0, 1]},
        both | {"main": False, "gathered": []},
    ]


def test_alone_nothing_is_asked():
    with distributed.join():
        assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
        assert distributed.broadcast("x") == "x" and distributed.gather(3) == [3]
        assert distributed.total(torch.ones(2)).tolist() == [1.0, 1.0]
        assert distributed.main_first(lambda: 7) == 7
        distributed.barrier()


@pytest.mark.parametrize("options", [{}, {"micro_queries": 1, "ema": 0.9, "l2_to_start": 0.05}])
def test_two_processes_end_where_one_does(work, tmp_path, options):
    """Nine queries, four a step: in the last step of an epoch one process has none."""
    for world in (1, 2):
        code, err = start(work, "descend", tmp_path / str(world), world=world, **options)
        assert code == 0, err
    (one,), (first, second) = read(tmp_path / "1", "end"), read(tmp_path / "2", "end")
    assert first == second  # bit for bit
    assert first["loss"] == pytest.approx(one["loss"], rel=2e-5, abs=1e-5)
    for name, wanted in one["weights"].items():
        torch.testing.assert_close(torch.tensor(first["weights"][name]), torch.tensor(wanted), atol=1e-5, rtol=0)
    for found, wanted in zip(first["history"], one["history"], strict=True):
        assert found == pytest.approx(wanted, rel=2e-5, abs=1e-5)
    state = checkpoint.read(tmp_path / "2" / "stage").tensors
    assert {"rng.0", "rng.1"} <= set(state) and not torch.equal(state["rng.0"], state["rng.1"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run(work, tmp_path, rank):
    begin = time.monotonic()
    code, err = start(work, "die", tmp_path, rank=rank)
    assert code == 1 and time.monotonic() - begin < 200
    assert f"launcher: process {rank + 1} of 2 was ended by SIGKILL. Run the same command again to resume" in err
    if rank == 1:  # the first process is there to say what it sees
        assert "said: another process of this run has stopped or does not answer" in err
    assert "Traceback" not in err
    assert checkpoint.read(tmp_path / "stage").progress["state"]["step"] == 4
    code, err = start(work, "die", tmp_path, rank=7)
    assert code == 0, err
    code, err = start(work, "die", tmp_path / "whole", rank=7)
    assert code == 0, err
    one, two = (load_file(folder / "stage" / checkpoint.LAST) for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)  # dropout of each process included


@pytest.mark.parametrize("task", ["refuse", "first_refuses"])
def test_what_all_run_into_is_said_once(work, tmp_path, task):
    code, err = start(work, task, tmp_path)
    assert code == 1
    assert err == "said: judgments.jsonl: line 3 is bad. Correct it.\n"


def test_what_one_runs_into_it_says_itself(work, tmp_path):
    code, err = start(work, "refuse", tmp_path, rank=1)
    assert code == 1
    assert "said: process 2 of 2: judgments.jsonl: line 3 is bad. Correct it.\n" in err


def test_a_loss_that_is_no_number_in_one_process_ends_all(work, tmp_path):
    code, err = start(work, "poisoned", tmp_path)
    assert code == 1
    assert err.count("said:") == 1 and "the loss is nan at step 1" in err


def test_settings_that_cannot_be(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(distributed.TIMEOUT, "soon")
    with pytest.raises(UsageError, match=r"DARL_PROCESS_TIMEOUT is 'soon'\. Give a number of seconds"), \
            distributed.join("cpu"):  # fmt: skip
        pass


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"process 2 has no GPU: this machine has 1\. Start 1 processes"), \
            distributed.join("auto"):  # fmt: skip
        pass


def test_a_store_that_does_not_answer_is_one_line(monkeypatch):
    """No first process at that address: it waits, then says so."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")
    monkeypatch.setenv(distributed.TIMEOUT, "1")
    with pytest.raises(distributed.PeerLost) as caught, distributed.join("cpu"):
        pass
    assert "another process of this run has stopped or does not answer" in str(caught.value)


# ---- whole runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bases):
    """A project whose full stage helps, and its run by one process."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_project(
        folder / "project", bases["bert"], contrary=True,
        stages={"run": ["head", "full"], "full_epochs": 4, "batch_queries": 4, "device": "cpu",
                "head_learning_rate": 5e-4},
    )  # fmt: skip
    _no_dropout(bases["bert"], folder / "base")
    path.write_text(path.read_text().replace(str(bases["bert"]), str(folder / "base")))
    plan.train(read_config(path), path.parent, folder / "one")
    return path, folder / "one"


def _no_dropout(base: Path, target: Path) -> None:
    target.mkdir()
    for file in base.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (target / "config.json").write_text(json.dumps(config))


COMMANDS = {
    "--processes": lambda path: ["-m", "darl_opensearch", "train", str(path), "--processes", "2", "--json"],
    "torchrun": lambda path: [
        "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2",
        "-m", "darl_opensearch", "train", str(path), "--json",
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", COMMANDS)
def test_darl_train_with_two_processes(trained, tmp_path, how):
    path, one = trained
    environment = ENVIRONMENT | {"DARL_RUN": str(tmp_path / "two")}  # torchrun takes --run for its own --run-path
    done = subprocess.run(
        [sys.executable, *COMMANDS[how](path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: the other process printed nothing
    wanted = json.loads((one / "result.json").read_text())
    assert [s["kept"] for s in result["stages"]] == [s["kept"] for s in wanted["stages"]]
    for found, stage in zip(result["stages"][1]["history"], wanted["stages"][1]["history"], strict=True):
        assert found == pytest.approx(stage, rel=2e-5, abs=1e-5)
    a, b = (load_file(run / "checkpoint" / "model.safetensors") for run in (tmp_path / "two", one))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=0)
    assert not [p for p in (tmp_path / "two").rglob("*") if ".tmp" in p.name or ".old" in p.name]


def test_bad_input_is_one_line_also_from_two(trained, tmp_path, bases):
    path = write_project(tmp_path / "bad", bases["bert"])
    (path.parent / "items.jsonl").write_text("{")
    done = Forked(COMMANDS["--processes"](path), ENVIRONMENT).wait(300)
    assert done.code == 1 and done.out == ""
    assert done.err.startswith(f"darl: {path.parent / 'items.jsonl'}, line 1: not JSON")
    assert done.err.count("\n") == 1
    assert not (path.parent / "runs").exists()


def test_torchrun_and_processes_exclude_each_other(trained):
    path, _ = trained
    done = Forked(COMMANDS["--processes"](path), ENVIRONMENT | {"WORLD_SIZE": "2"}).wait(300)
    assert done.code == 2
    assert done.err == "darl: torchrun has already started the processes. Omit --processes.\n"
