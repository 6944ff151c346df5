"""Gradient descent that can be killed at any moment and resumes from its last checkpoint.

With several processes, on the CPU or on GPUs, each takes its share of a step's queries. The parts of the loss sum to
the loss of the whole step, so the partition changes results only by rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.errors import DarlError, InputError, UsageError
from trainer import distributed
from trainer.models.device import autocast, choose_device, on
from trainer.stages import checkpoint
from trainer.stages.checkpoint import Checkpoint
from trainer.training_data.source import Batch, Source

PRECISIONS = ("fp32", "bf16")


class StepLoss(Protocol):
    """A loss whose parts sum to the whole: each process, or part of a batch, computes its own.

    A stateful loss has three more methods. ``state_dict()`` and ``load_state_dict(tensors)`` make its state part of the
    checkpoint. ``after_step(total)`` is called after the weights are updated; ``total`` sums a tensor over the
    processes, in place. Until then, calls for the parts of a step may accumulate values, but must not change the
    weights of its other parts.
    """

    def counts(self, batch: Batch) -> Tensor:
        """Count what the loss's terms are averaged over, ``[m]`` float; the counts of parts add up."""

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Compute some queries' part of the loss of the whole batch.

        :param model: the backbone, in training mode.
        :param batch: some queries, with at least one pair.
        :param whole: ``[m]`` counts of the whole batch.
        :param share: share of the terms that belong to no pair.
        :return: ``[]`` float, with gradient.
        """


@dataclass(frozen=True)
class FitSettings:
    """Settings of a descent.

    :param learning_rate: peak rate of the encoder.
    :param head_learning_rate: peak rate of the head.
    :param batch_queries: queries per step, over all processes.
    :param evaluations: dev evaluations per epoch.
    :param patience: evaluations without a better dev RPS before it stops.
    :param micro_queries: maximum queries encoded at once, to bound memory; 0: a process's whole share.
    :param ema: decay of the exponential moving average of the weights (Polyak and Juditsky 1992) that is evaluated
        and kept; 0: no averaging.
    :param l2_to_start: weight of half the squared distance to the initial weights (L2-SP, Li et al. 2018,
        arXiv:1802.01483), in place of the encoder's weight decay; 0: none.
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    :param precision: precision of the forward pass: ``fp32``, or ``bf16`` by autocast. Trained weights and optimiser
        are always fp32.
    :param checkpoint_steps: steps between additional checkpoints; 0: only at evaluations.
    :param rate_key: configuration key of the learning rate, for messages.
    """

    epochs: int
    learning_rate: float
    head_learning_rate: float
    batch_queries: int
    evaluations: int
    patience: int
    micro_queries: int = 0
    ema: float = 0.0
    l2_to_start: float = 0.0
    device: str = "auto"
    precision: str = "fp32"
    checkpoint_steps: int = 0
    rate_key: str = "[stages] full_learning_rate"


@dataclass
class _State:
    step: int = 0
    best_step: int = -1
    best_loss: float = math.inf
    since: int = 0


class Fit:
    """One descent.

    With several processes, each makes and runs one from the same arguments; the first process evaluates and writes,
    and all end with the same weights.

    :param model: trained in place; it must hold the initial weights, even when the descent resumes.
    :param evaluate: returns the dev RPS of the model, lower is better, which is on the CPU at the time.
    :param folder: folder of the checkpoints, shared by all processes.
    :raises UsageError: for an unknown device or precision.
    """

    def __init__(
        self,
        model: Any,
        loss: StepLoss,
        evaluate: Callable[[], float],
        settings: FitSettings,
        source: Source,
        *,
        seed: int,
        folder: Path,
    ) -> None:
        if settings.precision not in PRECISIONS:
            raise UsageError(f"[stages] precision is {settings.precision!r}", todo=f"choose {' or '.join(PRECISIONS)}")
        self.model, self.loss, self.evaluate, self.settings = model, loss, evaluate, settings
        self.source, self.seed, self.folder = source, seed, folder
        self.device = choose_device(settings.device)
        self.steps_per_epoch = math.ceil(source.n_queries / settings.batch_queries)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.every = max(1, self.steps_per_epoch // max(1, settings.evaluations))
        self.parameters = [*model.encoder_parameters(), *model.head.parameters()]
        decay = 0.0 if settings.l2_to_start else 0.01  # towards the initial weights or towards 0, not both
        self.optimiser = torch.optim.AdamW(
            [
                {"params": model.encoder_parameters(), "lr": settings.learning_rate, "weight_decay": decay},
                {"params": list(model.head.parameters()), "lr": settings.head_learning_rate, "weight_decay": 0.0},
            ]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.state = _State()
        self.history: list[dict[str, float]] = []
        self.start: list[Tensor] = []
        self.average: list[Tensor] = []
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))
        self._terms = 0  # width of the loss's counts, unknown to a process without queries

    def _rate(self, step: int) -> float:
        warm = max(1, self.total_steps // 10)
        return min(1.0, (step + 1) / warm) * max(0.0, (self.total_steps - step) / max(1, self.total_steps))

    def run(self, advance: Callable[[int, int], object] = lambda done, total: None) -> list[dict[str, float]]:
        """Train to the end or to early stopping; the model ends with the weights of the best dev RPS.

        :param advance: called with steps done and steps in all.
        :return: the history.
        :raises DarlError: if the loss is not finite, memory or disk is full, or another process has stopped; the last
            good checkpoint is kept.
        """
        distributed.broadcast_tensors(list(self.model.state_dict().values()))  # GPUs may differ by rounding
        self.start = [p.detach().clone() for p in self.parameters] if self.settings.l2_to_start else []
        self.average = [p.detach().clone() for p in self.parameters] if self.settings.ema else []
        if not distributed.main_first(self._resume):
            torch.manual_seed(self.seed + distributed.rank())
            self._evaluate()
        while self.state.step < self.total_steps and self.state.since < self.settings.patience:
            with self._on_device():
                loss = self._to_evaluation(advance)
            self._evaluate(train_loss=loss)
        self.model.load_state_dict(distributed.main_first(lambda: checkpoint.read_best(self.folder)))
        distributed.barrier()  # the folder may be deleted once every process has read it
        self.model.eval()
        return self.history

    def _to_evaluation(self, advance: Callable[[int, int], object]) -> float:
        """Take steps until the next evaluation, and return the last loss."""
        while True:
            loss = self.take_step()
            step = self.state.step
            advance(step, self.total_steps)
            if not math.isfinite(loss):
                raise DarlError(
                    f"the loss is {loss} at step {step}",
                    where=str(self.folder),
                    todo=f"lower {self.settings.rate_key}; the checkpoint before it is kept",
                )
            if step % self.every == 0 or step == self.total_steps:
                return loss
            if self.settings.checkpoint_steps and step % self.settings.checkpoint_steps == 0:
                self._save(improved=False)

    # ---- a step

    def _chosen(self, step: int) -> tuple[list[int], int]:
        """Choose the queries of a step, and return them with its epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.source.n_queries)
            self._order = (epoch, order)
        size = self.settings.batch_queries
        return self._order[1][place * size : (place + 1) * size].tolist(), epoch

    def _batches(self) -> list[Batch]:
        """Draw this process's share of the step, in parts that fit into memory."""
        chosen, epoch = self._chosen(self.state.step)
        mine = chosen[distributed.rank() :: distributed.world()]
        size = self.settings.micro_queries or len(mine) or 1
        parts = [self.source.batch(mine[at : at + size], epoch) for at in range(0, len(mine), size)]
        return [part for part in parts if part.queries]

    def take_step(self) -> float:
        """Take one step; the weights do not change if loss or gradient is not finite."""
        try:
            return self._descend()
        except torch.OutOfMemoryError as err:
            raise self._no_memory() from err
        except RuntimeError as err:
            if "can't allocate memory" not in str(err):  # torch's message on the CPU
                raise
            raise self._no_memory() from err

    def _descend(self) -> float:
        self.model.train()
        batches = self._batches()
        whole, queries = self._counts(batches)
        self.optimiser.zero_grad()
        value = 0.0
        for batch in batches:
            share = _queries(batch) / queries
            with autocast(self.device, self.settings.precision):
                loss = self.loss(self.model, batch, whole, share=share)
            loss.backward()
            value += float(loss.detach())
        value = self._sum_gradients(value)
        value += self._pull()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        self.state.step += 1
        if not math.isfinite(value + norm):
            return value if not math.isfinite(value) else norm
        self.optimiser.step()
        self.schedule.step()
        if self.average:
            with torch.no_grad():
                for mean, parameter in zip(self.average, self.parameters, strict=True):
                    mean.lerp_(parameter, 1.0 - self.settings.ema)
        if hasattr(self.loss, "after_step"):
            self.loss.after_step(distributed.total)
        self.optimiser.zero_grad()
        return value

    def _counts(self, batches: list[Batch]) -> tuple[Tensor, float]:
        """Count over the whole step the loss's denominators, and the queries with pairs."""
        parts = [self.loss.counts(batch) for batch in batches]
        if not self._terms:
            self._terms = distributed.broadcast(len(parts[0]) if parts else 0)
        counts = torch.zeros(self._terms + 1, dtype=torch.float64)
        for part, batch in zip(parts, batches, strict=True):
            counts += torch.cat([part.double().cpu(), torch.tensor([float(_queries(batch))], dtype=torch.float64)])
        distributed.total(counts)
        if not counts[:-1].any():
            raise InputError(
                f"none of the queries of step {self.state.step + 1} has a graded pair",
                where=str(self.folder),
                todo="remove queries without judgments from the training data",
            )
        return counts[:-1].float(), float(counts[-1])

    def _sum_gradients(self, value: float) -> float:
        """Sum gradients and loss over the processes, in one message, and return the loss."""
        if distributed.world() == 1:
            return value
        weights = [p for p in self.parameters if p.requires_grad]
        tail = torch.tensor([float(p.grad is not None) for p in weights] + [value], device=self.device)
        flat = torch.cat(
            [*(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in weights), tail]
        )
        distributed.total(flat)
        parts = flat[: -len(tail)].split([p.numel() for p in weights])
        for parameter, part, present in zip(weights, parts, flat[-len(tail) : -1].tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if present else None
        return float(flat[-1])

    @torch.no_grad()
    def _pull(self) -> float:
        """Add the gradient of ``l2_to_start / 2 * |weights - start|²``, and return its value."""
        value = 0.0
        for parameter, start in zip(self.parameters, self.start, strict=False):
            if parameter.requires_grad:
                distance = parameter - start
                gradient = self.settings.l2_to_start * distance
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                value += 0.5 * self.settings.l2_to_start * float(distance.square().sum())
        return value

    def _no_memory(self) -> DarlError:
        settings = self.settings
        micro = f"micro_queries (now {settings.micro_queries or 'all of a process'})"
        return DarlError(
            f"{self.device} ran out of memory in step {self.state.step + 1}",
            where=str(self.folder),
            todo=f"lower [stages] {micro}, batch_queries (now {settings.batch_queries}) or items_per_query, then run "
            "the same command with --fresh",
        )

    # ---- between steps

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Move the model, its initial and averaged weights and the optimiser to the training device."""
        with on(self.model, self.device):
            for part in (self.start, self.average):
                part[:] = [tensor.to(self.device) for tensor in part]
            for values in self.optimiser.state.values():
                for name, value in values.items():
                    if name != "step":  # torch keeps that one on the CPU
                        values[name] = value.to(self.device)
            yield
            self.optimiser.zero_grad()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights, if any, into the model."""
        own = [p.detach().clone() for p in self.parameters] if self.average else []
        self._put(self.average)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=False):
            parameter.copy_(value)

    def _evaluate(self, train_loss: float = math.nan) -> None:
        self.model.eval()
        loss = math.nan
        with self._averaged():
            if distributed.is_main():
                loss = self.evaluate()
        loss = distributed.broadcast(loss)
        self.state.since += 1
        improved = loss < self.state.best_loss - 1e-6
        if improved:
            self.state.best_loss, self.state.best_step, self.state.since = loss, self.state.step, 0
        elif self.state.best_step < 0:
            raise DarlError(f"the dev RPS is {loss} before the first step", where=str(self.folder),
                            todo="check the base model's weights and the dev file")  # fmt: skip
        row = {"step": float(self.state.step), "dev_rps": loss}
        self.history.append(row if math.isnan(train_loss) else row | {"train_loss": train_loss})
        if math.isfinite(loss):  # else the weights are broken, and a checkpoint of them would be useless
            self._save(improved)

    # ---- on disk

    def _save(self, improved: bool) -> None:
        """Write a checkpoint with everything that a resumed run needs."""
        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        random = distributed.gather((torch.get_rng_state(), cuda))
        if not distributed.is_main():
            return
        tensors: dict[str, Tensor] = {}
        for number, (cpu, gpu) in enumerate(random):
            tensors[f"rng.{number}"] = cpu
            if gpu is not None:
                tensors[f"cuda_rng.{number}"] = gpu
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{i}.{name}"] = torch.as_tensor(value)
        tensors |= {f"average.{i}": value for i, value in enumerate(self.average)}
        if hasattr(self.loss, "state_dict"):
            tensors |= {f"loss.{name}": value for name, value in self.loss.state_dict().items()}
        best = None
        if improved:
            with self._averaged():
                best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        progress = {"state": dataclasses.asdict(self.state), "history": self.history}
        checkpoint.write(self.folder, Checkpoint(dict(self.model.state_dict()), tensors, progress), best)

    def _resume(self) -> bool:
        if distributed.is_main():
            checkpoint.recover(self.folder)
        saved = checkpoint.read(self.folder)
        if saved is None or any("dev_loss" in row for row in saved.progress["history"]):
            return False  # nothing, or of an earlier version, whose best weights were chosen by another measure
        self.state, self.history = _State(**saved.progress["state"]), saved.progress["history"]
        self.model.load_state_dict(saved.weights)
        loss: dict[str, Tensor] = {}
        for key, value in saved.tensors.items():
            kind, _, name = key.partition(".")
            if kind == "optimiser":
                index, _, name = name.partition(".")
                self.optimiser.state[self.parameters[int(index)]][name] = value
            elif kind == "average" and self.average:
                self.average[int(name)] = value
            elif kind == "loss":
                loss[name] = value
        if loss:
            self.loss.load_state_dict(loss)  # type: ignore[attr-defined]
        self._restore_random(saved.tensors)
        self.schedule.last_epoch = self.state.step
        for group, base in zip(self.optimiser.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base * self._rate(self.state.step)
        return True

    def _restore_random(self, tensors: Mapping[str, Tensor]) -> None:
        rank = distributed.rank()
        if (state := tensors.get(f"rng.{rank}")) is None:  # resumed with more processes: no saved state
            torch.manual_seed(self.seed + rank + self.state.step)
            return
        torch.set_rng_state(state)
        if self.device.type == "cuda" and (state := tensors.get(f"cuda_rng.{rank}")) is not None:
            torch.cuda.set_rng_state(state)


def _queries(batch: Batch) -> int:
    return len(batch.query_index.unique())
