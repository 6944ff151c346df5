"""The descent: cut up, averaged, pulled back, broken off, out of memory, out of disk; on a model of four numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import signal
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from darl_opensearch import cli
from darl_opensearch.errors import DarlError, UsageError
from tests.helpers.forked import Forked
from tests.helpers.training_project import write_project
from trainer.config import read_config
from trainer.stages import checkpoint, fit, plan
from trainer.stages.fit import Fit, FitSettings
from trainer.training_data import features as features_module
from trainer.training_data.features import Features
from trainer.training_data.source import Batch

ROOT = Path(cli.__file__).parents[2]
SETTINGS = FitSettings(
    epochs=4, learning_rate=0.01, head_learning_rate=0.02, batch_queries=4, evaluations=2, patience=100, device="cpu"
)


class Toy(nn.Module):
    """Two numbers below a head of one weight, with dropout, so that the random state matters."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 1)
        self.idle = nn.Parameter(torch.ones(3))  # no gradient ever reaches it
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.encoder.weight.copy_(torch.tensor([[0.5, -0.2], [0.1, 0.4]]))
            self.head.weight.copy_(torch.tensor([[1.0, -1.0]]))
            self.head.bias.zero_()

    def encoder_parameters(self):
        return [*self.encoder.parameters(), self.idle]

    def forward(self, x):
        return self.head(self.dropout(self.encoder(x))).squeeze(1)


class Points:
    """Query ``n`` has ``1 + n % 3`` pairs; every fifth has none where ``holes`` says so."""

    def __init__(self, n: int = 10, *, holes: bool = False) -> None:
        self.n_queries, self.holes = n, holes

    def batch(self, queries, epoch):
        names, index, grades = [], [], []
        for query in queries:
            for item in range(0 if self.holes and query % 5 == 0 else 1 + query % 3):
                names.append(f"{query} {item}")
                index.append(query)
                grades.append((query + item) % 2)
        return Batch(names, names, torch.tensor(index, dtype=torch.long), torch.tensor(grades), torch.zeros(0), names)


class Squared:
    """Mean squared error over pairs, and a penalty that belongs to none."""

    def counts(self, batch):
        return torch.tensor([float(len(batch.grades))])

    def __call__(self, model, batch, whole, *, share=1.0):
        x = torch.tensor([[float(part) for part in name.split()] for name in batch.queries]) / 10
        return ((model(x) - batch.grades) ** 2).sum() / whole[0] + share * 0.1 * model.head.weight.square().sum()


class Remembering(Squared):
    """Weighs a step by the steps before it."""

    def __init__(self) -> None:
        self.weight, self.seen = torch.ones(1), torch.zeros(1)

    def __call__(self, model, batch, whole, *, share=1.0):
        loss = super().__call__(model, batch, whole, share=share)
        self.seen += loss.detach()
        return float(self.weight) * loss

    def after_step(self, total):
        self.weight = (self.weight * torch.exp(0.1 * total(self.seen))).clamp(max=5.0)
        self.seen = torch.zeros(1)

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, tensors):
        self.weight, self.seen = tensors["weight"], torch.zeros(1)


def with_(**changes):
    return fit.dataclasses.replace(SETTINGS, **changes)


def dev_loss(model):
    whole = Points().batch(range(10), 0)
    with torch.no_grad():
        return float(Squared()(model, whole, Squared().counts(whole)))


def make(folder, settings=SETTINGS, *, model=None, loss=None, source=None, evaluate=None):
    model = model or Toy()
    return Fit(
        model, loss or Squared(), evaluate or (lambda: dev_loss(model)), settings, source or Points(), seed=3,
        folder=folder / "stage",
    )  # fmt: skip


def descend(folder, settings=SETTINGS, **parts):
    descent = make(folder, settings, **parts)
    descent.run()
    return descent


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


# ---- cut up


@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("holes", [False, True])
def test_a_step_in_parts_is_the_step(tmp_path, micro, holes):
    """Queries without pairs included: their share of the penalty goes to the others."""
    whole, parts = (
        descend(tmp_path / str(size), with_(micro_queries=size), model=Toy(0.0), source=Points(holes=holes))
        for size in (0, micro)
    )
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
    assert not same(whole.model, Toy())


def test_the_memory_bound_is_kept(tmp_path):
    seen = []

    class Watched(Squared):
        def __call__(self, model, batch, whole, *, share=1.0):
            seen.append(len(batch.query_index.unique()))
            return super().__call__(model, batch, whole, share=share)

    descend(tmp_path, with_(micro_queries=3, epochs=1), loss=Watched())
    assert seen == [3, 1, 3, 1, 2]  # 4 + 4 + 2 queries


def test_each_epoch_has_every_query_once_in_another_order(tmp_path):
    descent = make(tmp_path)
    epochs = [[query for step in range(3) for query in descent._chosen(3 * epoch + step)[0]] for epoch in range(4)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    assert descent._chosen(0)[0] == epochs[0][:4]  # also when it goes back


def test_a_batch_without_a_graded_pair(tmp_path):
    class Empty(Points):
        def batch(self, queries, epoch):
            return super().batch([], epoch)

    with pytest.raises(DarlError) as caught:
        descend(tmp_path, source=Empty())
    assert str(caught.value) == (
        f"{tmp_path / 'stage'}: none of the queries of step 1 has a graded pair. Remove queries without judgments "
        "from the training data."
    )


# ---- averaged, pulled back


def test_the_average_is_what_is_evaluated_and_kept(tmp_path):
    """After n steps it is (1 - d) Σ d^(n-i) w_i + d^n w_0."""
    decay, trail, shown = 0.75, [], []
    model = Toy()
    descent = make(tmp_path, with_(ema=decay, epochs=1, evaluations=1), model=model, evaluate=lambda: evaluate())

    def evaluate():
        shown.append(model.encoder.weight.detach().clone())
        return -float(len(shown))

    descent.run(lambda done, total: trail.append(model.encoder.weight.detach().clone()))
    wanted = decay**3 * Toy().encoder.weight + sum(
        (1 - decay) * decay ** (2 - i) * weight for i, weight in enumerate(trail)
    )
    assert len(trail) == 3 and len(shown) == 2
    torch.testing.assert_close(shown[1], wanted)
    assert torch.equal(model.encoder.weight, shown[1])
    saved = load_file(tmp_path / "stage" / checkpoint.LAST)
    assert torch.equal(saved["encoder.weight"], trail[-1])  # it goes on from the weights themselves


def test_the_pull_to_the_start_is_the_gradient_of_its_penalty(tmp_path):
    weight = 0.7
    descent = make(tmp_path, with_(l2_to_start=weight), model=Toy(0.0))
    start = [p.detach().clone() for p in descent.parameters]
    descent.start = start
    with torch.no_grad():
        for n, parameter in enumerate(descent.parameters):
            parameter.add_(0.1 * (n + 1))
    moved = [p.detach().clone().requires_grad_() for p in descent.parameters]
    penalty = weight / 2 * sum((p - s).square().sum() for p, s in zip(moved, start, strict=True))
    penalty.backward()
    assert descent._pull() == pytest.approx(float(penalty.detach()))
    for parameter, wanted in zip(descent.parameters, moved, strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad)
    assert [group["weight_decay"] for group in descent.optimiser.param_groups] == [0.0, 0.0]
    assert [group["weight_decay"] for group in make(tmp_path).optimiser.param_groups] == [0.01, 0.0]


def test_a_strong_pull_stays_near_the_start(tmp_path):
    def distance(pull):
        settings = with_(l2_to_start=pull, epochs=20)
        model = descend(tmp_path / str(pull), settings, model=Toy(0.0)).model
        return float((model.encoder.weight - Toy().encoder.weight).detach().norm())

    free, held = distance(0.0), distance(100.0)
    assert held < free / 2


# ---- broken off

EVERYTHING = {"ema": 0.9, "l2_to_start": 0.05, "micro_queries": 3}


@pytest.mark.parametrize("checkpoint_steps", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_broken_off_anywhere_it_ends_as_if_it_had_not_been(tmp_path, options, checkpoint_steps):
    """Dropout, averages, the pull's start and the loss's own state included."""
    whole = descend(tmp_path / "whole", with_(**options), loss=Remembering())
    generator = random.Random(1)
    settings, broken = with_(checkpoint_steps=checkpoint_steps, **options), 0
    while True:
        stop = generator.randrange(1, 8)
        descent = make(tmp_path / "broken", settings, loss=Remembering())
        torch.manual_seed(generator.randrange(1000))  # a new process knows nothing of the old one's state
        calls = iter(range(1, 100))

        def interrupt(done, total, calls=calls, stop=stop):
            if next(calls) == stop:
                raise KeyboardInterrupt

        try:
            descent.run(interrupt)
        except KeyboardInterrupt:
            broken += 1
            continue
        break
    assert broken > 1
    assert same(descent.model, whole.model) and descent.history == whole.history
    for name in (checkpoint.LAST, checkpoint.TENSORS):
        one, two = (load_file(tmp_path / run / "stage" / name) for run in ("whole", "broken"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_what_makes_it_go_on_is_needed(tmp_path):
    """Each part of the state changes the outcome: a test of equality could otherwise not fail."""
    runs = [{}, {"ema": 0.9}, {"l2_to_start": 0.05}]
    models = [descend(tmp_path / str(n), with_(**options)).model for n, options in enumerate(runs)]
    models += [descend(tmp_path / "loss", loss=Remembering()).model, descend(tmp_path / "rng", model=Toy(0.0)).model]
    assert not any(same(a, b) for n, a in enumerate(models) for b in models[:n])


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.trainer import test_fit as t
descent = t.make(Path(sys.argv[1]), t.LONG, loss=t.Remembering())
descent.run()
print("done")
"""
LONG = with_(checkpoint_steps=3, epochs=120, **EVERYTHING)


def test_kill_9_at_random_moments(tmp_path):
    whole = descend(tmp_path / "whole", LONG, loss=Remembering())
    place, generator, killed = tmp_path / "killed" / "stage" / checkpoint.PROGRESS, random.Random(7), 0
    (tmp_path / "child.py").write_text(textwrap.dedent(CHILD))
    for _ in range(2):
        process = Forked([tmp_path / "child.py", tmp_path / "killed"])
        before = place.read_bytes() if place.exists() else b""
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            with contextlib.suppress(OSError):  # between two renames
                if place.read_bytes() != before:
                    break
            time.sleep(0.005)
        time.sleep(generator.random() * 0.05)
        with contextlib.suppress(ProcessLookupError):  # it was done
            os.kill(process.pid, signal.SIGKILL)
        ended = process.wait(30)
        assert not ended.err, ended.err
        killed += ended.code == -signal.SIGKILL
    assert killed
    again = descend(tmp_path / "killed", LONG, loss=Remembering())
    assert same(again.model, whole.model) and again.history == whole.history
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["stage"]  # what was left is cleared away


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    descent = descend(tmp_path, with_(epochs=1))
    place = tmp_path / "stage"
    place.rename(tmp_path / ".stage.123.old")
    (tmp_path / ".stage.tmp").mkdir()
    (tmp_path / ".stage.tmp" / checkpoint.PROGRESS).write_text('{"state": ')
    checkpoint.recover(place)
    assert checkpoint.read(place).progress["state"]["step"] == descent.total_steps
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage"]
    place.rename(tmp_path / ".stage.tmp")  # written to its end, and not renamed yet
    shutil.copytree(tmp_path / ".stage.tmp", tmp_path / ".stage.123.old")
    checkpoint.recover(place)
    assert checkpoint.read(place) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage"]


def test_a_checkpoint_whose_best_weights_were_chosen_otherwise_is_not_resumed(tmp_path):
    """An earlier version chose them by the dev loss, which no RPS can be compared with."""
    whole = make(tmp_path / "whole")
    whole.run()
    half = make(tmp_path / "half")
    half.run()
    saved = checkpoint.read(half.folder)
    history = [{"dev_loss" if name == "dev_rps" else name: v for name, v in row.items()} for row in half.history]
    earlier = dataclasses.replace(saved, progress={"state": saved.progress["state"], "history": history})
    checkpoint.write(half.folder, earlier, saved.weights)
    again = make(tmp_path / "half")
    assert again.run() == whole.history
    assert all(torch.equal(a, b) for a, b in zip(again.parameters, whole.parameters, strict=True))


# ---- what goes wrong


def test_a_loss_or_a_gradient_that_is_no_number_moves_nothing(tmp_path):
    class Poisoned(Squared):
        def __init__(self, where):
            self.calls, self.where = 0, where

        def __call__(self, model, batch, whole, *, share=1.0):
            self.calls += 1
            loss = super().__call__(model, batch, whole, share=share)
            if self.calls == 5:
                # The gradient of sqrt at 0 is infinite, its value is not.
                loss = loss * float("nan") if self.where == "loss" else loss + (model.idle - 1.0).sum().sqrt()
            return loss

    for where, said in (("loss", "nan"), ("gradient", "inf|nan")):
        descent = make(tmp_path / where, with_(rate_key="[augment] learning_rate"), loss=Poisoned(where))
        with pytest.raises(DarlError, match=rf"the loss is ({said}) at step 5\. Lower \[augment\] learning_rate"):
            descent.run()
        assert all(torch.isfinite(p).all() for p in descent.model.parameters())
        kept = checkpoint.read(tmp_path / where / "stage")
        assert kept.progress["state"]["step"] == 4 and all(torch.isfinite(t).all() for t in kept.weights.values())


def test_a_dev_rps_that_is_no_number(tmp_path):
    with pytest.raises(DarlError, match=r"the dev RPS is nan before the first step\. Check the base model's weights"):
        descend(tmp_path, evaluate=lambda: float("nan"))
    losses = iter([1.0, 0.5, float("nan"), 0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    descent = make(tmp_path / "later", evaluate=lambda: next(losses))
    real, steps = descent._save, []
    descent._save = lambda improved: (steps.append(descent.state.step), real(improved))
    descent.run()
    assert steps[:4] == [0, 1, 3, 4]  # no checkpoint of what came out as no number


FULL_DISK = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL_DISK, ids=["system", "safetensors"])
def test_a_full_disk(tmp_path, monkeypatch, error):
    real, calls = checkpoint.save_file, iter(range(1, 100))

    def save(tensors, path):
        if next(calls) == 8:
            raise error
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save)
    with pytest.raises(DarlError) as caught:
        descend(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'stage'}: the disk is full: the checkpoint of step 2 cannot be written")
    assert "the previous one is kept. Free disk space, then run the same command again to resume." in text
    assert checkpoint.read(tmp_path / "stage").progress["state"]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]
    assert same(descend(tmp_path).model, descend(tmp_path / "other").model)  # room was made


def test_another_error_of_the_disk_is_shown_as_it_is(tmp_path, monkeypatch):
    def save(tensors, path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "save_file", save)
    with pytest.raises(PermissionError):
        descend(tmp_path)


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …"),
]


@pytest.mark.parametrize("error", MEMORY, ids=["cuda", "cpu"])
def test_out_of_memory(tmp_path, error):
    class Greedy(Squared):
        calls = 0

        def __call__(self, *args, **options):
            self.calls += 1
            if self.calls == 3:
                raise error
            return super().__call__(*args, **options)

    with pytest.raises(DarlError) as caught:
        descend(tmp_path, loss=Greedy())
    text = str(caught.value)
    assert "cpu ran out of memory in step 3" in text
    assert "Lower [stages] micro_queries (now all of a process), batch_queries (now 4)" in text


def test_another_error_is_not_taken_for_it(tmp_path):
    class Broken(Squared):
        def __call__(self, *args, **options):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        descend(tmp_path, loss=Broken())


def test_settings_that_there_are_not(tmp_path):
    with pytest.raises(UsageError, match=r"\[stages\] precision is 'fp8'\. Choose fp32 or bf16"):
        make(tmp_path, with_(precision="fp8"))
    with pytest.raises(UsageError, match=r"\[stages\] device is 'tpu'"):
        make(tmp_path, with_(device="tpu"))


# ---- where it runs


def test_bf16_is_another_rounding_of_the_same_descent(tmp_path):
    """The weights stay fp32; the products have eight bits."""
    exact, rounded = (
        descend(tmp_path / precision, with_(precision=precision), model=Toy(0.0)).model for precision in fit.PRECISIONS
    )
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    assert not same(exact, rounded)
    for one, two in zip(exact.parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=0.02, rtol=0.02)


def test_the_model_is_on_the_device_for_steps_and_on_the_cpu_for_evaluations(tmp_path, monkeypatch):
    """Without a GPU here: the moves are counted, and the order of events is what it would be."""
    events = []

    @fit.contextmanager
    def on(model, device):
        events.append(f"to {device}")
        yield
        events.append("back")

    monkeypatch.setattr(fit, "on", on)
    model = Toy()

    def evaluate():
        events.append("evaluate")
        return dev_loss(model)

    descent = make(tmp_path, with_(epochs=1, evaluations=1, ema=0.5, l2_to_start=0.1), model=model, evaluate=evaluate)
    descent.run(lambda done, total: events.append("step"))
    assert events == ["evaluate", "to cpu", "step", "step", "step", "back", "evaluate"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_goes_on_as_well(tmp_path):
    settings = with_(device="cuda", **EVERYTHING)

    class There(Squared):
        def __call__(self, model, batch, whole, *, share=1.0):
            device = model.head.weight.device
            x = torch.tensor([[float(p) for p in name.split()] for name in batch.queries], device=device) / 10
            error = (model(x) - batch.grades.to(device)) ** 2
            return error.sum() / whole[0].to(device) + share * 0.1 * model.head.weight.square().sum()

    whole = descend(tmp_path / "whole", settings, loss=There())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "broken", settings, loss=There()).run(stop_at(5))
    again = descend(tmp_path / "broken", settings, loss=There())
    assert same(whole.model, again.model)
    assert all(p.device.type == "cpu" for p in again.model.parameters())


def stop_at(step):
    def advance(done, total):
        if done == step:
            raise KeyboardInterrupt

    return advance


# ---- with a real encoder


def test_an_encoder_trains_in_bf16_as_in_fp32(tmp_path, bases):
    """Features, kernels and rank term under autocast: the same descent up to eight bits."""
    path = write_project(tmp_path / "p", bases["bert"], stages={"run": ["full"], "full_epochs": 2, "device": "cpu"})
    rows = []
    for precision in fit.PRECISIONS:
        config = read_config(path, [f"stages.precision={precision}"])
        rows.append(plan.train(config, path.parent, tmp_path / precision).result["stages"][0]["history"])
    assert rows[0] != rows[1]
    for one, two in zip(*rows, strict=True):
        assert two["dev_rps"] == pytest.approx(one["dev_rps"], rel=0.1)


def test_features_are_encoded_on_the_device_and_are_on_the_cpu(tmp_path, bases, monkeypatch):
    """Without a GPU here: each encoding moves the model once, and what is known already moves nothing."""
    moves = []

    @fit.contextmanager
    def on(model, device):
        moves.append(device)
        yield

    monkeypatch.setattr(features_module, "on", on)
    path = write_project(tmp_path / "p", bases["bert"])
    model, data = plan.prepare(read_config(path), path.parent)
    features, pairs = Features(model, device="cpu"), data.judged(data.dev)
    table = features.of(pairs)
    assert features.of(pairs) is table and moves == [torch.device("cpu")]
    assert features.tables(pairs)[0][1].device.type == "cpu" and len(moves) == 1  # encoded with the pairs
    features.tables(data.unjudged(data.traffic))
    assert len(moves) == 2
    with pytest.raises(UsageError, match=r"\[stages\] device is 'tpu'"):
        Features(model, device="tpu")
