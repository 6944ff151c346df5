"""``darl rollback``: an earlier version serves again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.cluster_options import (
    cluster_options,
    deploy_timeout_option,
    dry_run_option,
    history_option,
    note_option,
    pipeline_option,
)
from darl_opensearch.cli.output import emit, json_option
from darl_opensearch.cli.webhook_option import announce, webhook_option
from darl_opensearch.webhook import Webhook

if TYPE_CHECKING:
    from darl_opensearch.cluster.connect import ClusterOptions


@click.command()
@cluster_options
@pipeline_option()
@click.option(
    "--to",
    metavar="VERSION",
    envvar="DARL_ROLLBACK_TO",
    show_envvar=True,
    help="The version to go back to, or NAME:VERSION.  [default: the one before the one that serves]",
)
@note_option
@deploy_timeout_option("Seconds to wait until a model that was undeployed is loaded again.")
@history_option
@webhook_option
@dry_run_option
@json_option
def cli(
    cluster: ClusterOptions, pipeline: str, to: str | None, words: str, deploy_timeout: float, history: str,
    webhook: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Let an earlier version serve again, by the very pipelines that it served by.

    Its model is deployed again where it was undeployed, and asked before anything is switched. Without --to, each
    rollback goes one release further back. Ends with 3 when the earlier version does not answer.
    """
    from darl_opensearch.cli.release import released_text
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.release import ReleaseRefused, RollbackOptions, rollback

    hook = Webhook.of(webhook)
    target = Cluster.open(cluster, dry_run=dry_run)
    options = RollbackOptions(
        pipeline=pipeline, to=to or None, note=words, deploy_timeout=deploy_timeout, history=history
    )
    try:
        done = rollback(target, options)
    except ReleaseRefused as err:
        if not dry_run:
            announce(hook, "refused", err.event.to_json() | {"message": str(err)})
        raise
    if dry_run:
        click.echo(json.dumps([call.to_json() for call in target.calls], ensure_ascii=False, indent=2))
        return
    emit(done.to_json(), as_json=as_json, text=released_text(done))
    if done.changed:
        announce(hook, "rollback", done.to_json() | {"note": words})
