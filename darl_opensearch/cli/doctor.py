"""``darl doctor``: checks of a cluster and its scorer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON
from darl_opensearch.cluster.doctor.subject import DoctorOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import EXIT_DONE, EXIT_FAILED
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.doctor import Diagnosis


@click.command()
@with_options
@click.pass_context
def cli(
    ctx: click.Context,
    cluster: ClusterOptions = CLUSTER,
    options: DoctorOptions = setting(..., "what to check"),
    as_json: bool = JSON,
) -> None:
    """Check a cluster, its pipelines, its model and its scorer, and show how to mend what is wrong.

    Each result is ok, a warning, a problem, or not checked, followed by the request or command that mends it. Nothing
    is written to the cluster. Exit code 1 if there is a problem.
    """
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.doctor import diagnose

    options = dataclasses.replace(
        options, ca_certs=cluster.ca_certs, verify_certificate=not cluster.insecure,
        client_cert=(cluster.client_cert, cluster.client_key) if cluster.client_cert else None,
    )  # fmt: skip
    with progress_line("checking") as line:
        diagnosis = diagnose(Cluster.open(cluster), options, report=line.report)
    emit(diagnosis.to_json(), as_json=as_json, text=_text(diagnosis))
    ctx.exit(EXIT_FAILED if diagnosis.count("problem") else EXIT_DONE)


def _text(diagnosis: Diagnosis) -> str:
    lines = []
    for result in diagnosis.results:
        lines.append(f"{result.verdict:<11}  {result.check:<12}  {result.text}")
        lines += [f"{'':<27}{mend}" for mend in result.mends()]
    counts = {"problem": "problems", "warning": "warnings"}
    said = [f"{n} {word if n == 1 else many}" for word, many in counts.items() for n in [diagnosis.count(word)]]  # type: ignore[arg-type]
    lines.append(f"{', '.join(said)}, {diagnosis.count('not checked')} not checked")
    return "\n".join(lines)
