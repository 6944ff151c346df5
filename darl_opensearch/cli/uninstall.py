"""``darl uninstall``: take away what register and release made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, emit_calls, note
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON
from darl_opensearch.cluster.uninstall.removal import UninstallOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.uninstall import Removal


@click.command()
@with_options
def cli(
    cluster: ClusterOptions = CLUSTER,
    options: UninstallOptions = setting(..., "what to remove"),
    yes: bool = setting(False, "Do not ask before removing.", flag="--yes"),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Remove a pipeline and all that darl register and darl release made for it.

    Search pipelines, models, connectors, model groups and the release history are removed. Item indexes, models that
    another pipeline needs and, without --ood-log, the OOD log are kept, and listed with the reason. Repeating it is
    harmless; after an interruption it finishes the work.
    """
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.models import describe_left
    from darl_opensearch.cluster.uninstall import plan_removal, remove

    target = Cluster.open(cluster, dry_run=dry_run)
    plan = plan_removal(target, options)
    if plan.lines() and not (dry_run or yes):
        _confirm(target.url, plan)
    remove(target, plan)
    if dry_run:
        emit_calls(target.calls)
        return
    if warning := describe_left(target):
        note(f"warning: {warning}")
    emit(plan.to_json(), as_json=as_json, text=_text(plan))


def _confirm(url: str, plan: Removal) -> None:
    if not sys.stdin.isatty():
        raise UsageError("removing needs a confirmation, and there is no terminal to ask on", todo="pass --yes")
    note("\n".join([f"To be removed from {url}:", *(f"  {line}" for line in plan.lines())]))
    note("Searches that name the pipeline fail afterwards.")
    click.confirm("Remove?", abort=True, err=True)


def _text(plan: Removal) -> str:
    lines = [f"removed {line}" for line in plan.lines()] or [f"nothing of pipeline {plan.options.pipeline} is there"]
    return "\n".join(lines + [f"left {kept}" for kept in plan.kept])
