"""``darl release``: a bundle serves in place of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import (
    CLUSTER,
    DEPLOY_TIMEOUT,
    DRY_RUN,
    HISTORY,
    JSON,
    MODEL_PLACE,
    NOTE,
    PIPELINE,
    ModelPlace,
    bundle_argument,
)
from darl_opensearch.cli.webhook_option import WEBHOOK, announce, refusal_announced
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import InputError
from darl_opensearch.settings import InputFile, setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.webhook import Webhook

if TYPE_CHECKING:
    from darl_opensearch.cluster.outcome import Release

MOST_GATE_BYTES = 4 << 20


@click.command()
@bundle_argument
@with_options
def cli(
    bundle: Path,
    cluster: ClusterOptions = CLUSTER,
    place: ModelPlace = MODEL_PLACE,
    pipeline: str = PIPELINE,
    gate: InputFile | None = setting(
        None,
        "Report of darl gate --out about this bundle; a no, or another bundle's, refuses the release.",
        env="DARL_GATE",
    ),
    index: str | None = setting(
        None, "Index of items to search through the new pipeline before it is in place.", env="DARL_INDEX"
    ),
    keep: int = setting(
        2,
        "Earlier versions that stay deployed; older ones are undeployed, and a rollback deploys them again.",
        least=0,
        env="DARL_KEEP",
    ),
    max_k: int | None = setting(
        None, "Most pairs scored a search.  [default: as the pipeline has it]", least=1, most=10_000, env="DARL_MAX_K"
    ),
    oversample: int | None = setting(
        None,
        "Candidates fetched for each hit asked for.  [default: as the pipeline has it]",
        least=1,
        most=1000,
        env="DARL_OVERSAMPLE",
    ),
    query_path: str | None = setting(
        None, "Where the query's text is in the search body.  [default: as the pipeline has it]", env="DARL_QUERY_PATH"
    ),
    with_query_id: bool | None = setting(
        None,
        "Hand ext.ml_inference.query_id and .slice to the scorer.  [default: as the pipeline has it]",
        env="DARL_WITH_QUERY_ID",
        flag="--with-query-id/--without-query-id",
    ),
    words: str = NOTE,
    apply_settings: bool = setting(False, "Change the cluster settings that stand in the way."),
    deploy_timeout: float = DEPLOY_TIMEOUT,
    grace: float = setting(
        30.0, "Most seconds to wait for running searches before an old model is undeployed.", least=0, env="DARL_GRACE"
    ),
    history: str = HISTORY,
    webhook: str | None = WEBHOOK,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Let BUNDLE serve in place of what the pipeline serves, under live traffic.

    The model is registered and deployed beside the old one and compared with the bundle; then each pipeline is
    switched by one request, and the old version stays for darl rollback. Ends with 3 when the gate said no or the new
    version does not answer as its bundle does: the old one goes on serving.
    """
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.release import ReleaseOptions, release

    hook = Webhook.of(webhook)
    options = ReleaseOptions(
        pipeline=pipeline, mode=place.mode, scorer=place.scorer, max_k=max_k, oversample=oversample,
        query_path=query_path, with_query_id=with_query_id, keep=keep, index=index,
        gate=read_gate_report(gate) if gate else None, note=words, apply_settings=apply_settings,
        deploy_timeout=deploy_timeout, grace=grace, history=history,
    )  # fmt: skip
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("registering") as line, refusal_announced(hook, dry_run=dry_run):
        done = release(bundle, target, options, on_chunk=line.count, report=line.report)
    if dry_run:
        emit_calls(target.calls)
        return
    emit(done.to_json(), as_json=as_json, text=released_text(done))
    if done.changed:
        announce(hook, "release", done.to_json() | {"note": words})
    if gate is None and done.changed and not as_json:
        note("released without a gate's report (--gate)")


def released_text(done: Release) -> str:
    """Say what was released or rolled back.

    :return: lines without a final break.
    """
    if not done.changed:
        return f"{done.served.label} serves already, by pipeline {done.pipeline}: nothing to do"
    lines = [f"{done.served.label} ({done.served.mode}) serves, {done.event} {done.number} of pipeline {done.pipeline}"]
    if done.came_from:
        way = "darl rollback" if done.event == "release" else f"darl rollback --to {done.came_from.version}"
        lines.append(f"before: {done.came_from.label} ({done.came_from.mode}); {way} goes back to it")
    if done.deviation is not None:
        lines.append(f"answers as the bundle does, within {max(done.deviation, 1e-7):.0e}")
    if done.probe is not None:
        lines.append(f"a search through the pipeline too: {done.probe.hits} hits, within {done.probe.deviation:.0e}")
    lines += [f"setting {name} = {json.dumps(value)}" for name, value in done.settings.items()]
    lines += [f"search pipeline {name} {change}" for name, change in done.pipelines.items()]
    lines += [f"{one.label} undeployed" for one in done.undeployed]
    return "\n".join(lines)


def read_gate_report(path: Path) -> dict[str, Any]:
    """Read what ``darl gate --out`` wrote."""
    if path.stat().st_size > MOST_GATE_BYTES:
        raise InputError("too large for a report of darl gate", where=str(path), todo="make it by darl gate --out")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"not JSON ({err})", where=str(path), todo="make it by darl gate --out") from err
    if not isinstance(found, dict):
        raise InputError("not a JSON object", where=str(path), todo="make it by darl gate --out")
    return found
