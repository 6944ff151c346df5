"""Stage 2: fine-tune encoder and head together, a few queries a step."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from darl_opensearch.bundle import replace_folder
from darl_opensearch.errors import DarlError
from trainer.config import Stages
from trainer.stages.data import Features, Pairs
from trainer.stages.head_stage import dev_objective
from trainer.stages.objective import Objective


@dataclass
class _State:
    step: int = 0
    best_step: int = -1
    best_loss: float = math.inf
    since: int = 0


class FullStage:
    """Fine-tuning that can be killed at any moment and goes on from its last evaluation.

    :param model: trained in place.
    :param objective: the loss.
    :param config: table ``[stages]``.
    :param train: training pairs.
    :param dev: dev pairs.
    :param seed: of order and dropout.
    :param folder: where its checkpoints go.
    """

    def __init__(
        self, model: Any, objective: Objective, config: Stages, train: Pairs, dev: Pairs, *, seed: int, folder: Path
    ) -> None:
        self.model, self.objective, self.config, self.seed, self.folder = model, objective, config, seed, folder
        self.train, self.dev = train, dev
        self.n_queries = len(train.queries)
        self.steps_per_epoch = math.ceil(self.n_queries / config.batch_queries)
        self.total_steps = self.steps_per_epoch * config.full_epochs
        self.every = max(1, self.steps_per_epoch // max(1, config.evaluations))
        self.parameters = [*model.encoder_parameters(), *model.head.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": model.encoder_parameters(), "lr": config.full_learning_rate, "weight_decay": 0.01},
                {"params": list(model.head.parameters()), "lr": config.head_learning_rate, "weight_decay": 0.0},
            ]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.state = _State()
        self.history: list[dict[str, float]] = []
        self._rows = [torch.nonzero(train.query_index == q).squeeze(1) for q in range(self.n_queries)]

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
        while self.state.step < self.total_steps and self.state.since < self.config.patience:
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

    def _batch(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = list(range(self.n_queries))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order[place * self.config.batch_queries : (place + 1) * self.config.batch_queries]

    def _draw(self, query: int) -> Tensor:
        """Draw the items of a query for this epoch: relevant ones fill at most half of the places."""
        rows, cap = self._rows[query].tolist(), self.config.items_per_query
        if len(rows) > cap:
            rng = random.Random(f"{self.seed}/{self.state.step // self.steps_per_epoch}/{query}")
            rng.shuffle(rows)
            relevant = [row for row in rows if self.train.grades[row] > 0][: cap // 2]
            rows = [*relevant, *(row for row in rows if row not in relevant)][:cap]
        return torch.tensor(sorted(rows))

    def _step(self) -> float:
        self.model.train()
        rows = torch.cat([self._draw(q) for q in self._batch(self.state.step)])
        queries = [self.train.queries[i] for i in self.train.index[rows, 0].tolist()]
        items = [self.train.items[i] for i in self.train.index[rows, 1].tolist()]
        features = self.model.pair_features(queries, items).similarity
        grades, query_index = self.train.grades[rows], self.train.query_index[rows]
        loss: Tensor = self.objective(
            self.model.head, features, grades.to(features.device), query_index.to(features.device)
        )
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.state.step += 1
        return float(loss.detach())

    def _evaluate(self, train_loss: float = math.nan) -> None:
        self.model.eval()
        table = Features(self.model).of(self.dev)
        loss = dev_objective(self.objective, self.model.head, (self.dev, table.similarity))
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
