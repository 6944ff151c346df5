"""``darl check``."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.output import emit, json_option
from darl_opensearch.errors import GateRefused


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def cli(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE: digests, graph contract, tokenizer, calibration, and parity with torch.

    Exit code 3 when something is not as it must be; each such line says what and why.
    """
    from darl_opensearch.check import check_bundle

    findings = list(check_bundle(bundle))
    failed = [f for f in findings if f.passed is False]
    marks = {True: "ok  ", False: "FAIL", None: "  ? "}
    text = "\n".join(f"{marks[f.passed]}  {f.check}: {f.detail}" for f in findings)
    emit({"bundle": str(bundle), "passed": not failed, "findings": [f.to_json() for f in findings]},
         as_json=as_json, text=text)  # fmt: skip
    if failed:
        names = ", ".join(f.check for f in failed)
        raise GateRefused(f"{len(failed)} of {len(findings)} checks failed ({names})", where=str(bundle),
                          todo="export the model again; if that fails as well, report it")  # fmt: skip
