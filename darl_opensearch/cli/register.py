"""``darl register``: a bundle into ML Commons, and its search pipelines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON, MODEL_PLACE, ModelPlace, bundle_argument
from darl_opensearch.cluster.pipelines import PipelineOptions
from darl_opensearch.cluster.register import RegisterOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.register import Registration


@click.command()
@bundle_argument
@with_options
def cli(
    bundle: Path,
    cluster: ClusterOptions = CLUSTER,
    place: ModelPlace = MODEL_PLACE,
    pipeline: PipelineOptions = setting(..., "the search pipelines"),
    options: RegisterOptions = setting(..., "the registration"),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Register BUNDLE in ML Commons and set up its search pipelines.

    Registering the same bundle again changes nothing. Cluster settings are checked first, and changed only with
    --apply-settings. The model's answers are compared with the bundle's before any pipeline is written.
    """
    from darl_opensearch.cluster import Cluster, register
    from darl_opensearch.cluster.default_pipelines import warn_of_default_pipelines
    from darl_opensearch.cluster.models import describe_left

    options = dataclasses.replace(options, mode=place.mode, scorer=place.scorer, pipeline=pipeline)
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("uploading") as line:
        done = register(bundle, target, options, on_chunk=line.count)
    if warning := warn_of_default_pipelines(target):
        note(f"warning: {warning}")
    if dry_run:
        emit_calls(target.calls)
        return
    for warning in filter(None, (done.warning, describe_left(target))):
        note(f"warning: {warning}")
    emit(done.to_json(), as_json=as_json, text=_text(done))


def _reused(done: Registration) -> str:
    if done.rekeyed:
        return ", its connector has the new API key"
    return ", unchanged" if done.reused else ""


def _text(done: Registration) -> str:
    lines = [f"{done.name} {done.version} ({done.mode}): model {done.model_id}" + _reused(done)]
    if done.deviation is not None:
        lines.append(f"answers match the bundle's within {max(done.deviation, 1e-7):.0e}")
    lines += [f"setting {name} = {json.dumps(value)}" for name, value in done.settings.items()]
    lines += [f"search pipeline {name} {change}" for name, change in done.pipelines.items()]
    lines += [f"model {model_id} removed" for model_id in done.removed]
    return "\n".join(lines)
