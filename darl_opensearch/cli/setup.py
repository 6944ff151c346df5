"""``darl setup``: retention, monitors, roles and dashboards around the pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, emit_calls
from darl_opensearch.cli.shared import CLUSTER, DRY_RUN, JSON
from darl_opensearch.cluster.setup.options import Part, SetupOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.settings import FilePath, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.setup.run import SetUp


@click.command()
@with_options
def cli(
    cluster: ClusterOptions = CLUSTER,
    only: tuple[Part, ...] = setting((), "Part to set up.  [default: all that the cluster's plugins allow]"),
    options: SetupOptions = setting(..., "what is set up"),
    dashboards_url: str | None = setting(
        None,
        "URL of OpenSearch Dashboards, to import the saved objects; without a port, 5601 for http and 443 for "
        "https. User, password and certificates are those of the cluster.",
        env="DARL_DASHBOARDS_URL",
    ),  # fmt: skip
    out: FilePath | None = setting(
        None, "File to write the saved objects to, for Dashboards' own import.", flag="--out"
    ),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Set up retention, alerts, roles and dashboards.

    ism: an Index State Management policy for the OOD log. monitors: alerts on the log and on releases. roles: least
    privileges for each kind of user. dashboards: saved objects for OpenSearch Dashboards. Running it again changes
    nothing; entries that darl did not create are never overwritten. A part whose plugin is missing is left out, unless
    --only names it.
    """
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.setup.dashboards import Dashboards
    from darl_opensearch.cluster.setup.run import set_up

    target = Cluster.open(cluster, dry_run=dry_run)
    dashboards = Dashboards.open(dashboards_url, cluster, dry_run=dry_run) if dashboards_url else None
    done = set_up(target, options, only, dashboards=dashboards, out=out)
    if dry_run:
        emit_calls([*target.calls, *(dashboards.api.calls if dashboards else ())])
        return
    emit(done.to_json(), as_json=as_json, text=_text(done))


def _text(done: SetUp) -> str:
    lines = [f"{part}: {name} {change}" for part, changes in done.changes.items() for name, change in changes.items()]
    lines += [f"ism: {index} is left to policy {policy}" for index, policy in done.managed.items()]
    if done.file is not None:
        lines.append(f"dashboards: written to {done.file}")
    lines += [f"{part}: left out, {why}" for part, why in done.skipped.items()]
    return "\n".join(lines)
