"""The steps of a cycle in order, with their inputs."""

from __future__ import annotations

from trainer.cycle.inputs import CycleInputs
from trainer.cycle.steps.base import JUDGMENTS, Ending, Step, StepResult, Waiting
from trainer.cycle.steps.evaluate import measure_versions
from trainer.cycle.steps.export import export_version
from trainer.cycle.steps.gate import Gating, ask_gate, end_refused, open_gated
from trainer.cycle.steps.judge import Judging, collect_judgments, end_without_judgments
from trainer.cycle.steps.looks import list_former
from trainer.cycle.steps.select import end_without_samples, open_items, select_samples
from trainer.cycle.steps.train import number_version, train_version


def _select(c: CycleInputs) -> StepResult:
    held_out = c.first.files("dev", "ood_dev", "traffic")
    return select_samples(
        c.config.select, c.serving, c.world.store,
        trained=[*c.first.files("judgments", "new"), *(folder / JUDGMENTS for folder in c.earlier)],
        held_out=[*held_out, c.id_test, *(c.base / name for name in c.config.model.held_out)],
        items=open_items(c.catalogues, c.serving.renderer, c.world), since=c.config.log.begin(),
        former_control=list_former(c.earlier, c.cycle.path),
        folder=c.cycle.path, report=c.world.report,
    )  # fmt: skip


def _judge(c: CycleInputs) -> StepResult | Waiting:
    return collect_judgments(_judging(c), looks=c.config.gate.looks, seed=c.config.seed)


def _judging(c: CycleInputs) -> Judging:
    return Judging(c.config.judge, c.base, c.serving, c.catalogues, c.earlier, c.cycle.path, c.world.report)


def _train(c: CycleInputs) -> StepResult:
    return train_version(
        c.config.train, c.first, c.serving, catalogues=c.catalogues, earlier=c.earlier, folder=c.cycle.path,
        version=number_version(c.serving.card.version, c.cycle.number, c.cycles.all()), seed=c.config.seed,
        report=c.world.report,
    )  # fmt: skip


def _export(c: CycleInputs) -> StepResult:
    about = {"cycle": c.cycle.name, "from": c.serving.identity, "pairs": c.result("train").get("pairs")}
    return export_version(c.cycle.path, about=about, int8=c.config.train.int8, report=c.world.report)


def _evaluate(c: CycleInputs) -> StepResult:
    return measure_versions(
        c.config.gate, c.serving.path, id_test=c.id_test, folder=c.cycle.path, report=c.world.report
    )


def _gate(c: CycleInputs) -> StepResult | Waiting:
    scores = c.result("evaluate").get("scores")
    gating = Gating(c.config.gate, c.base, c.serving, c.id_test, scores, c.cycle.path, c.world.report)
    return ask_gate(gating, _judging(c), share=c.config.train.ood_dev_share, seed=c.config.seed)


def _register(c: CycleInputs) -> StepResult:
    return c.world.deployment.register(open_gated(c.cycle.path, c.result("gate")))


def _release(c: CycleInputs) -> StepResult:
    """Release in the cluster, then point to the bundle that the next cycle starts from."""
    verdict = c.result("gate")
    bundle = open_gated(c.cycle.path, verdict)
    result = c.world.deployment.release(bundle, cycle=c.cycle.name, gate=verdict)
    c.cycles.switch(c.cycle, bundle.path)
    return result


STEPS: tuple[Step, ...] = (
    Step("select", "select queries to label, and sample the control arm", ("select", "log", "seed"), _select,
         end_without_samples),
    Step("judge", "get them labelled", ("judge", "gate.looks"), _judge, end_without_judgments),
    Step("train", "train a new version from the serving version's checkpoint", ("train", "model"), _train),
    Step("export", "export it", (), _export),
    Step("evaluate", "evaluate both versions", (), _evaluate),
    Step("gate", "compare both on the ID test and the control arm", ("gate",), _gate, end_refused),
    Step("register", "deploy the new version", ("release",), _register),
    Step("release", "switch searches to it", ("release",), _release),
)  # fmt: skip

__all__ = ["STEPS", "Ending", "Step", "Waiting"]
