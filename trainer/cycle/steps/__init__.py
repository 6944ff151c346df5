"""The steps of a cycle, in order."""

from __future__ import annotations

from trainer.cycle.steps import evaluate, export, gate, judge, register, release, select, train
from trainer.cycle.steps.base import Context, Step, Waiting

STEPS: tuple[Step, ...] = (
    Step("select", "choose what to judge, and draw the control arm", ("select", "log", "seed"), select.run),
    Step("judge", "have it judged", ("judge",), judge.run),
    Step("train", "train a new version from the checkpoint of the one that serves", ("train", "model"), train.run),
    Step("export", "export it", (), export.run),
    Step("evaluate", "measure both versions", (), evaluate.run),
    Step("gate", "compare both on the ID test and on the control arm", ("gate",), gate.run),
    Step("register", "bring it to where it can serve", ("release",), register.run),
    Step("release", "let searches go to it", ("release",), release.run),
)

__all__ = ["STEPS", "Context", "Step", "Waiting"]
