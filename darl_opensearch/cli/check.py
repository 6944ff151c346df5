"""``darl check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import GateRefused
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.graph_contract import Finding


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@with_options
def cli(
    bundle: Path,
    as_json: bool = JSON,
) -> None:
    """Verify BUNDLE: digests, graph contract, tokenizer, calibration, and parity with torch.

    Exit code 3 if a check fails; its line says what failed and why.
    """
    findings = _find(bundle)
    marks = {True: "ok  ", False: "FAIL", None: "  ? "}
    text = "\n".join(f"{marks[f.passed]}  {f.check}: {f.detail}" for f in findings)
    passed = all(f.passed is not False for f in findings)
    result = {"bundle": str(bundle), "passed": passed, "findings": [f.to_json() for f in findings]}
    emit(result, as_json=as_json, text=text)
    _refuse(bundle, findings)


def check(bundle: Path) -> list[Finding]:
    """Verify a bundle.

    :raises GateRefused: if a check fails.
    """
    findings = _find(bundle)
    _refuse(bundle, findings)
    return findings


def _find(bundle: Path) -> list[Finding]:
    from darl_opensearch.check import check_bundle

    findings = []
    with progress_line("checking") as line:
        for finding in check_bundle(bundle):
            findings.append(finding)
            line.report(f"checking, done with {finding.check}")
    return findings


def _refuse(bundle: Path, findings: Sequence[Finding]) -> None:
    if failed := [f for f in findings if f.passed is False]:
        raise GateRefused(
            f"{len(failed)} of {len(findings)} checks failed ({'; '.join(f'{f.check}: {f.detail}' for f in failed)})",
            where=str(bundle),
            todo="export the model again, and report it if that fails too",
        )
