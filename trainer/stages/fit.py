"""Gradient descent that can be killed at any moment and goes on from its last evaluation."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from darl_opensearch.bundle import replace_folder
from darl_opensearch.errors import DarlError
from trainer.stages.source import Batch, Source


class StepLoss(Protocol):
    """A loss whose parts sum to the whole: each process, or part of a batch, gives its own."""

    def counts(self, batch: Batch) -> Tensor:
        """What the loss's terms are averaged over.

        :param batch: some queries.
        :return: ``[m]`` float; those of a whole batch are the sum of its parts'.
        """

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Contribution of some queries to the loss of the batch that holds them.

        :param model: the backbone, training.
        :param batch: some queries, or none.
        :param whole: ``[m]`` counts of the whole batch.
        :param share: of the terms that belong to no pair.
        :return: ``[]`` float, with gradient.
        """


@dataclass(frozen=True)
class FitSettings:
    """How to descend.

    :param epochs: most passes over the queries.
    :param learning_rate: peak, of the encoder.
    :param head_learning_rate: peak, of the head.
    :param batch_queries: queries in a step.
    :param evaluations: an epoch.
    :param patience: evaluations without a better dev loss before it ends.
    """

    epochs: int
    learning_rate: float
    head_learning_rate: float
    batch_queries: int
    evaluations: int
    patience: int


@dataclass
class _State:
    step: int = 0
    best_step: int = -1
    best_loss: float = math.inf
    since: int = 0


class Fit:
    """One descent.

    :param model: trained in place.
    :param loss: of a batch.
    :param evaluate: the dev loss of the model as it is.
    :param settings: how.
    :param source: training queries.
    :param seed: of order and dropout.
    :param folder: where its checkpoints go.
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
        self.model, self.loss, self.evaluate, self.settings = model, loss, evaluate, settings
        self.source, self.seed, self.folder = source, seed, folder
        self.steps_per_epoch = math.ceil(source.n_queries / settings.batch_queries)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.every = max(1, self.steps_per_epoch // max(1, settings.evaluations))
        self.parameters = [*model.encoder_parameters(), *model.head.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": model.encoder_parameters(), "lr": settings.learning_rate, "weight_decay": 0.01},
                {"params": list(model.head.parameters()), "lr": settings.head_learning_rate, "weight_decay": 0.0},
            ]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.state = _State()
        self.history: list[dict[str, float]] = []

    def _rate(self, step: int) -> float:
        warm = max(1, self.total_steps // 10)
        return min(1.0, (step + 1) / warm) * max(0.0, (self.total_steps - step) / max(1, self.total_steps))

    def run(self, advance: Callable[[int, int], object] = lambda done, total: None) -> list[dict[str, float]]:
        """Train to the end or to early stopping; the model ends with its best dev loss.

        :param advance: called with steps done and steps in all.
        :return: losses at each evaluation.
        :raises DarlError: when the loss is no longer a number; the last good checkpoint stays.
        """
        if not self._resume():
            torch.manual_seed(self.seed)
            self._evaluate()
        while self.state.step < self.total_steps and self.state.since < self.settings.patience:
            loss = self._step()
            advance(self.state.step, self.total_steps)
            if not math.isfinite(loss):
                raise DarlError(
                    f"the loss is {loss} at step {self.state.step}",
                    where=str(self.folder),
                    todo="lower [stages] full_learning_rate; the checkpoint before it is kept",
                )
            if self.state.step % self.every == 0 or self.state.step == self.total_steps:
                self._evaluate(train_loss=loss)
        self.model.load_state_dict(load_file(self.folder / "best.safetensors"))
        self.model.eval()
        return self.history

    def _batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = list(range(self.source.n_queries))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        size = self.settings.batch_queries
        return self.source.batch(order[place * size : (place + 1) * size], epoch)

    def _step(self) -> float:
        self.model.train()
        batch = self._batch(self.state.step)
        loss = self.loss(self.model, batch, self.loss.counts(batch))
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.state.step += 1
        return float(loss.detach())

    def _evaluate(self, train_loss: float = math.nan) -> None:
        self.model.eval()
        loss = self.evaluate()
        self.state.since += 1
        improved = loss < self.state.best_loss - 1e-6
        if improved:
            self.state.best_loss, self.state.best_step, self.state.since = loss, self.state.step, 0
        row = {"step": float(self.state.step), "dev_loss": loss}
        self.history.append(row if math.isnan(train_loss) else row | {"train_loss": train_loss})
        self._save(improved)

    def _save(self, improved: bool) -> None:
        """Write everything a resumed run needs into a sibling folder, then rename it."""
        work = self.folder.with_name(f".{self.folder.name}.tmp")
        work.mkdir(parents=True, exist_ok=True)
        weights = {name: t.contiguous() for name, t in self.model.state_dict().items()}
        save_file(weights, work / "last.safetensors")
        if improved:
            save_file(weights, work / "best.safetensors")
        else:
            (work / "best.safetensors").write_bytes((self.folder / "best.safetensors").read_bytes())
        tensors = {"rng": torch.get_rng_state()}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{i}.{name}"] = torch.as_tensor(value).contiguous()
        save_file(tensors, work / "optimiser.safetensors")
        progress = {"state": vars(self.state), "history": self.history}
        (work / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        replace_folder(work, self.folder)

    def _resume(self) -> bool:
        if not (self.folder / "progress.json").is_file():
            return False
        progress = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        self.state, self.history = _State(**progress["state"]), progress["history"]
        self.model.load_state_dict(load_file(self.folder / "last.safetensors"))
        tensors = load_file(self.folder / "optimiser.safetensors")
        torch.set_rng_state(tensors.pop("rng"))
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            self.optimiser.state[self.parameters[int(index)]][name] = value
        self.schedule.last_epoch = self.state.step
        for group, base in zip(self.optimiser.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base * self._rate(self.state.step)
        return True
