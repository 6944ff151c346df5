"""``darl register``: a bundle into ML Commons, and its search pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, emit_calls, progress_line
from darl_opensearch.cli.shared import CLUSTER, DEPLOY_TIMEOUT, DRY_RUN, JSON, MODEL_PLACE, ModelPlace, bundle_argument
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError
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
    pipeline: str = setting(
        "darl", "Name of the search pipeline; NAME-plain is the variant without grades.", env="DARL_PIPELINE"
    ),
    max_k: int | None = setting(
        None,
        "Most pairs scored a search, unless more hits are asked for.  [default: 50 local, 200 connector]",
        least=1,
        most=10_000,
        env="DARL_MAX_K",
    ),
    oversample: int = setting(
        5, "Candidates fetched for each hit asked for.", least=1, most=1000, env="DARL_OVERSAMPLE"
    ),
    query_path: str | None = setting(
        None,
        "Take the query's text from there in the search body, such as query.match.darl_text.query, "
        "instead of ext.ml_inference.query_text.",
        env="DARL_QUERY_PATH",
    ),
    with_query_id: bool = setting(
        False,
        "Hand ext.ml_inference.query_id and .slice to the scorer. A search without them is not reranked then.",
        env="DARL_WITH_QUERY_ID",
    ),
    apply_settings: bool = setting(False, "Change the cluster settings that stand in the way."),
    replace: bool = setting(False, "Register anew, and remove what has this name and version."),
    verify: bool = setting(True, "Compare the model's answers with the bundle's.", flag="--verify/--no-verify"),
    deploy_timeout: float = DEPLOY_TIMEOUT,
    switch: bool = setting(
        True,
        "Write the pipelines; without, the model is deployed and nothing asks it (darl release switches later).",
        flag="--pipelines/--no-pipelines",
    ),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Register BUNDLE in ML Commons and set up its search pipelines.

    Doing it again changes nothing. The cluster's settings are checked first, and changed only with
    --apply-settings; the model's answers are compared with the bundle's before a pipeline is written.
    """
    from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, register

    options = RegisterOptions(
        mode=place.mode,
        scorer=place.scorer,
        pipeline=PipelineOptions(pipeline, max_k, oversample, query_path or None, with_query_id),
        apply_settings=apply_settings,
        replace=replace,
        verify=verify,
        deploy_timeout=deploy_timeout,
        switch=switch,
    )
    if with_query_id and place.mode == "local":
        raise UsageError("--with-query-id is for --mode connector", todo="leave it out")
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("uploading") as line:
        done = register(bundle, target, options, on_chunk=line.count)
    if dry_run:
        emit_calls(target.calls)
        return
    emit(done.to_json(), as_json=as_json, text=_text(done))


def _text(done: Registration) -> str:
    lines = [
        f"{done.name} {done.version} ({done.mode}): model {done.model_id}" + (", there already" if done.reused else "")
    ]
    if done.deviation is not None:
        lines.append(f"answers as the bundle does, within {max(done.deviation, 1e-7):.0e}")
    lines += [f"setting {name} = {json.dumps(value)}" for name, value in done.settings.items()]
    lines += [f"search pipeline {name} {change}" for name, change in done.pipelines.items()]
    lines += [f"model {model_id} removed" for model_id in done.removed]
    return "\n".join(lines)
