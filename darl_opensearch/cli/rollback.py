"""``darl rollback``: an earlier version serves again."""

from __future__ import annotations

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
from darl_opensearch.cli.output import emit, emit_calls, json_option
from darl_opensearch.cli.webhook_option import announce, refusal_announced, webhook_option
from darl_opensearch.webhook import Webhook

if TYPE_CHECKING:
    from darl_opensearch.connect import ClusterOptions


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
    from darl_opensearch.cluster.release import RollbackOptions, rollback

    hook = Webhook.of(webhook)
    target = Cluster.open(cluster, dry_run=dry_run)
    options = RollbackOptions(
        pipeline=pipeline, to=to or None, note=words, deploy_timeout=deploy_timeout, history=history
    )
    with refusal_announced(hook, dry_run=dry_run):
        done = rollback(target, options)
    if dry_run:
        emit_calls(target.calls)
        return
    emit(done.to_json(), as_json=as_json, text=released_text(done))
    if done.changed:
        announce(hook, "rollback", done.to_json() | {"note": words})
