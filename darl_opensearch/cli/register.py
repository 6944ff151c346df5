"""``darl register``: a bundle into ML Commons, and its search pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from darl_opensearch.cli.cluster_options import (
    cluster_options,
    deploy_timeout_option,
    dry_run_option,
    model_options,
    pipeline_option,
)
from darl_opensearch.cli.output import emit, emit_calls, json_option, progress_line
from darl_opensearch.errors import UsageError

if TYPE_CHECKING:
    from darl_opensearch.cluster.connector import ScorerAddress
    from darl_opensearch.cluster.register import Registration
    from darl_opensearch.connect import ClusterOptions


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE")
@cluster_options
@model_options
@pipeline_option("Name of the search pipeline; NAME-plain is the variant without grades.")
@click.option(
    "--max-k",
    type=click.IntRange(1, 10_000),
    envvar="DARL_MAX_K",
    show_envvar=True,
    help="Most pairs scored a search, unless more hits are asked for.  [default: 50 local, 200 connector]",
)
@click.option(
    "--oversample",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    envvar="DARL_OVERSAMPLE",
    show_envvar=True,
    help="Candidates fetched for each hit asked for.",
)
@click.option(
    "--query-path",
    envvar="DARL_QUERY_PATH",
    show_envvar=True,
    help="Take the query's text from there in the search body, such as query.match.darl_text.query, "
    "instead of ext.ml_inference.query_text.",
)
@click.option(
    "--with-query-id",
    is_flag=True,
    envvar="DARL_WITH_QUERY_ID",
    show_envvar=True,
    help="Hand ext.ml_inference.query_id and .slice to the scorer. A search without them is not reranked then.",
)
@click.option("--apply-settings", is_flag=True, help="Change the cluster settings that stand in the way.")
@click.option("--replace", is_flag=True, help="Register anew, and remove what has this name and version.")
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Compare the model's answers with the bundle's."
)
@deploy_timeout_option()
@click.option(
    "--pipelines/--no-pipelines",
    "switch",
    default=True,
    show_default=True,
    help="Write the pipelines; without, the model is deployed and nothing asks it (darl release switches later).",
)
@dry_run_option
@json_option
def cli(
    bundle: Path,
    cluster: ClusterOptions,
    mode: Literal["local", "connector"],
    scorer: ScorerAddress | None,
    pipeline: str,
    max_k: int | None,
    oversample: int,
    query_path: str | None,
    with_query_id: bool,
    apply_settings: bool,
    replace: bool,
    verify: bool,
    deploy_timeout: float,
    switch: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Register BUNDLE in ML Commons and set up its search pipelines.

    Doing it again changes nothing. The cluster's settings are checked first, and changed only with
    --apply-settings; the model's answers are compared with the bundle's before a pipeline is written.
    """
    from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, register

    options = RegisterOptions(
        mode=mode,
        scorer=scorer,
        pipeline=PipelineOptions(pipeline, max_k, oversample, query_path or None, with_query_id),
        apply_settings=apply_settings,
        replace=replace,
        verify=verify,
        deploy_timeout=deploy_timeout,
        switch=switch,
    )
    if with_query_id and mode == "local":
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
