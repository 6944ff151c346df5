"""``darl versions``: the serving and earlier versions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from darl_opensearch.cli.output import emit, note
from darl_opensearch.cli.shared import CLUSTER, JSON
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.cluster.versions import Version


@click.command()
@with_options
def cli(
    cluster: ClusterOptions = CLUSTER,
    place: PipelineHistory = setting(..., "the pipeline and its history"),
    words: str | None = setting(
        None,
        "Delete the model of an old VERSION, or NAME:VERSION, from the cluster; refused while a pipeline uses it.",
        flag="--delete",
        metavar="VERSION",
    ),
    as_json: bool = JSON,
) -> None:
    """List a pipeline's versions: state, release date, gate result and note of each."""
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.models import describe_left
    from darl_opensearch.cluster.versions import delete_version, list_versions

    target = Cluster.open(cluster)
    if words:
        delete_version(target, words, place.pipeline, history=place.history)
        if warning := describe_left(target):
            note(f"warning: {warning}")
    listed = list_versions(target, place.pipeline, history=place.history)
    result = {"pipeline": place.pipeline, "versions": [version.to_json() for version in listed]}
    emit(result, as_json=as_json, text=_text(place.pipeline, listed))


def _text(pipeline: str, versions: Sequence[Version]) -> str:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not versions:
        return f"pipeline {pipeline} has no releases yet"
    table = Table(box=box.SIMPLE, pad_edge=False)
    for head in ("version", "mode", "state", "event", "when", "who", "gate", "note"):
        table.add_column(head)
    for version in versions:
        table.add_row(*map(escape, _row(version)))
    out = io.StringIO()
    Console(file=out, no_color=True, width=200, highlight=False, soft_wrap=True).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines() if line.strip())


def _row(version: Version) -> tuple[str, ...]:
    state, event = str(version.state), version.event
    if version.state == "serving" and version.model_state != "DEPLOYED":
        state = f"serving, model {version.model_state or 'gone'}"
    if event is None:
        return (version.served.label, version.served.mode, state, "–", "–", "–", "–", "not by darl release")
    kind = event.kind if event.state == "done" else f"{event.kind}, {event.state}"
    return (
        version.served.label, version.served.mode, state, f"{event.number} {kind}",
        f"{event.started[:16].replace('T', ' ')} UTC",
        event.who, _gate(version), event.reason or event.note or "",
    )  # fmt: skip


def _gate(version: Version) -> str:
    gate = version.gate
    if gate is None:
        return "none"
    changes = [
        f"{name} {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        for name in ("id", "control")
        if (change := gate.get(name)) and None not in (change["mean"], change["low"], change["high"])
    ]
    gained = f"; gain in {' and '.join(gate['gained'])}" if gate["gained"] else ""
    decided = f"; {gate['decided']}" if gate["decided"] else ""
    return f"{'yes' if gate['passed'] else 'no'}: {gate['measure']} {', '.join(changes)}{gained}{decided}".strip()
