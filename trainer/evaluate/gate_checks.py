"""The gate's checks of files and bundles: grades and texts mean the same, and nothing was trained on the test."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.graph_contract import Finding
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import digest_records, read_judgments
from trainer.data import leakage
from trainer.evaluate.gate_report import CONTROL
from trainer.evaluate.parts import JudgedPart
from trainer.evaluate.settings import GateOptions


def check_parts(id_test: Path, control: Path) -> None:
    """Refuse one file given for both parts, and control judgments of another arm, which is trained on."""
    if id_test.exists() and control.exists() and id_test.samefile(control):
        raise UsageError(
            "the same file is given for both parts", where=str(control),
            todo="give held-out in-distribution queries for one and the judged control arm for the other",
        )  # fmt: skip
    for where, row in read_jsonl(control):
        arm = row.get("arm")
        if arm is not None and arm != CONTROL:
            raise InputError(
                f"this judgment belongs to the arm {arm!r}", where=f"{where}, field 'arm'",
                todo="give only judgments of the control arm: the selected arm is trained on",
            )  # fmt: skip


def check_meaning(old: Bundle, new: Bundle, changed: str) -> list[Finding]:
    """Check that grades and item texts mean the same as before; a stated reason makes a change intended."""
    new_card, old_card = new.card, old.card
    findings = []
    for check, before, after, hint in (
        ("grades", _gains_by_name(old_card), _gains_by_name(new_card), ""),
        ("template", dataclasses.asdict(old_card.template), dataclasses.asdict(new_card.template),
         "; reload the index with the new one"),
    ):  # fmt: skip
        if before == after:
            findings.append(Finding(check, True, "same as the old bundle's"))
        elif changed:
            findings.append(Finding(check, True, f"differs from the old bundle's, because: {changed}{hint}"))
        else:
            findings.append(Finding(check, False, f"{after} is not the old bundle's {before}{hint}"))
    return findings


def _gains_by_name(card: Card) -> dict[str, float]:
    return dict(zip(card.scale.names, card.scale.gains, strict=True))


def check_training_data(
    new: Bundle, parts: Sequence[JudgedPart], items: Mapping[str, Item], blank: Iterable[str], options: GateOptions
) -> list[Finding]:
    """Check as far as possible that the new bundle was not trained on its test data."""
    findings = []
    trained: Mapping[str, Any] = new.card.training.get("data") or {}
    digests = {part["sha256"]: name for name, part in trained.items() if isinstance(part, dict) and "sha256" in part}
    for part in parts:
        # Read again: read_part shuffles items, but the trainer digests queries in file order.
        passed_over = Counter(dict.fromkeys(blank, 0))
        if name := digests.get(digest_records(read_judgments(part.path, items, new.card.scale.k, passed_over))):
            findings.append(
                Finding(f"training data, {part.name}", False, f"this part is the bundle's own {name!r} part")
            )
    if not options.train:
        detail = "its training files are not named (--train), so shared queries would go unnoticed"
        return [*findings, Finding("training data", None, detail)]
    for path, part in itertools.product(options.train, parts):
        trained_part = leakage.Part.of_file(path)
        shared = leakage.find_leaks(trained_part, leakage.Part.of_judged(str(part.path), part.queries))
        leaks = shared.find_refused(options.allow)
        detail = "; ".join(leakage.describe_leak(leak, shared.counts[leak.kind]) for leak in leaks)
        findings.append(Finding(f"training data, {part.name}", not leaks, detail or f"no query of {path} is in it"))
    return findings
