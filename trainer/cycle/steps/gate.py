"""Compare both versions on the ID test and on the control arm, which is judged until the gate can decide."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import GateRefused, UsageError
from darl_opensearch.io.writing import write_rows
from darl_opensearch.text import same_text
from trainer.cycle.config import GateTable
from trainer.cycle.folder import REFUSED, read_record, write_record
from trainer.cycle.ports import Report
from trainer.cycle.samples import read_rows, reduce_rows, trace_lineage
from trainer.cycle.steps.base import BUNDLE, SCORES, TRAINING, Ending, StepResult, Waiting
from trainer.cycle.steps.judge import Judging, judge_share
from trainer.cycle.steps.looks import divide_arm
from trainer.cycle.steps.train import CONTROL, ITEMS, LINEAGE, NEW, OLD, OOD_DEV, read_samples
from trainer.evaluate.gate import gate
from trainer.evaluate.gate_decision import decide_look
from trainer.evaluate.gate_report import GateReport
from trainer.evaluate.looks import CONTINUED, Look
from trainer.evaluate.score_cache import ScoreCache

LOOKS = "gate/looks.json"  # those that did not decide


@dataclass(frozen=True)
class Gating:
    """Runs the gate on the versions of a cycle.

    :param base: folder that the options' paths are relative to.
    :param scores: digest of the scores that evaluate has kept.
    :param folder: the cycle's.
    """

    options: GateTable
    base: Path
    serving: Bundle
    id_test: Path
    scores: str | None
    folder: Path
    report: Report

    @cached_property
    def _cache(self) -> ScoreCache:
        return ScoreCache.read(self.folder / SCORES, self.scores)

    def decide(self, control: Path, look: Look) -> GateReport:
        """Run the gate.

        :param control: judgments of the part of the control arm that the look sees.
        """
        project = self.folder / TRAINING
        trained = [project / name for name in (OLD, NEW)]
        trained += [project / OOD_DEV] if read_rows(project / OOD_DEV) else []
        options = dataclasses.replace(
            self.options, train=(*trained, *(self.base / path for path in self.options.train))
        )
        return gate(
            self.serving, Bundle.open(self.folder / BUNDLE), items=project / ITEMS, id_test=self.id_test,
            control=control, options=options, report=self.report, score_cache=self._cache, look=look,
        )  # fmt: skip


def ask_gate(gating: Gating, judging: Judging, *, share: float, seed: int) -> dict[str, Any] | Waiting:
    """Look at the control arm until the gate can decide, having the next share of it judged after each look.

    :param share: of the selected queries for early stopping, as in training.
    :param seed: of the cycle.
    :return: the gate's report, with ``passed``, or what the next look waits for.
    :raises UsageError: if ``[gate]`` has changed since the first look.
    """
    folder = gating.folder
    looks, turns = divide_arm(folder, seed, gating.options.looks)
    if len(looks) == 1:
        return gating.decide(folder / TRAINING / CONTROL, looks[0]).to_json()
    settings = json.loads(json.dumps(dataclasses.asdict(gating.options), default=str))
    found = _read_looks(folder / LOOKS, settings)
    for look in looks[len(found) :]:
        if look.number > 1 and (waiting := judge_share(judging, look.number, turns)) is not None:
            return waiting
        control = _write_control(judging, look, turns, share=share, seed=seed)
        verdict = gating.decide(control, look)
        found.append(decide_look(verdict, look))
        if found[-1]["decision"] != CONTINUED:
            break
        write_record(folder / LOOKS, {"settings": settings, "looks": found})
    return dataclasses.replace(verdict, looks=found).to_json()


def _read_looks(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the looks before a restart; a change of the settings would let them be tried until one passes."""
    record = read_record(path, "settings", "looks") or {"settings": settings, "looks": []}
    if changed := [key for key, value in settings.items() if record["settings"].get(key) != value]:
        key = changed[0]
        raise UsageError(
            f"[gate] {key} has changed from {json.dumps(record['settings'].get(key))} to {json.dumps(settings[key])} "
            "since the gate's first look", where=str(path),
            todo="restore it, or end the cycle with darl cycle --abandon and start another",
        )  # fmt: skip
    return list(record["looks"])


def _write_control(judging: Judging, look: Look, turns: Mapping[str, int], *, share: float, seed: int) -> Path:
    """Write the judgments that a look sees, and trace them to the log."""
    folder = judging.folder
    roles, tasks = read_samples(folder, judging.earlier, share=share, seed=seed)
    seen = [row for row in roles.control if turns[same_text(row["query"])] <= look.number]
    path = folder / f"gate/control-{look.number}.jsonl"
    write_rows(path, reduce_rows(seen), fixed_name=True)
    write_rows(folder / LINEAGE, trace_lineage(roles, tasks, cycle=folder.name), fixed_name=True)
    return path


def end_refused(result: StepResult) -> Ending | None:
    """End a cycle that the gate refused."""
    return None if result["passed"] else Ending(REFUSED, "the gate refused it: " + "; ".join(result["reasons"]))


def open_gated(folder: Path, verdict: StepResult) -> Bundle:
    """Open the bundle that passed the gate.

    :raises GateRefused: for any other bundle: the folder may have been overwritten since.
    """
    bundle, about = Bundle.open(folder / BUNDLE), verdict.get("new")
    if verdict.get("passed") is not True or not isinstance(about, dict) or about.get("identity") != bundle.identity:
        raise GateRefused(
            "this is not the bundle that passed the gate", where=str(bundle.path),
            todo="restore that bundle, or end the cycle with darl cycle --abandon and start another",
        )  # fmt: skip
    return bundle
