"""``darl rollback``: switch back to an earlier version."""

from __future__ import annotations

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON
from darl_opensearch.cli.webhook_option import WEBHOOK, announce, refusal_announced
from darl_opensearch.cluster.rollback import RollbackOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.webhook import Webhook


@click.command()
@with_options
def cli(
    cluster: ClusterOptions = CLUSTER,
    options: RollbackOptions = setting(..., "the rollback"),
    webhook: str | None = WEBHOOK,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Switch the search pipelines back to an earlier version, restoring the pipelines it was served by.

    Its model is deployed again if necessary, and probed before the switch. Without --to, each rollback goes back one
    more release. Exit code 3 if the earlier version does not answer.
    """
    from darl_opensearch.cli.release import released_text
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.default_pipelines import warn_of_default_pipelines
    from darl_opensearch.cluster.release import rollback

    hook = Webhook.of(webhook)
    target = Cluster.open(cluster, dry_run=dry_run)
    with progress_line("rolling back"), refusal_announced(hook, dry_run=dry_run):
        done = rollback(target, options)
    if warning := warn_of_default_pipelines(target):
        note(f"warning: {warning}")
    if dry_run:
        emit_calls(target.calls)
        return
    emit(done.to_json(), as_json=as_json, text=released_text(done))
    if done.changed:
        announce(hook, "rollback", done.to_json() | {"note": options.note})
