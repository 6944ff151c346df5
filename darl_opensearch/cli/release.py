"""``darl release``: switch to a new bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, emit_calls, note, progress_line
from darl_opensearch.cli.shared import (
    CLUSTER,
    DRY_RUN,
    JSON,
    MODEL_PLACE,
    ModelPlace,
    bundle_argument,
)
from darl_opensearch.cli.webhook_option import WEBHOOK, announce, refusal_announced
from darl_opensearch.cluster.release import ReleaseOptions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, InputError, UsageError
from darl_opensearch.settings import InputFile, setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.states.options import StatesPlace, parse_item_count
from darl_opensearch.text import TEXT_FIELD
from darl_opensearch.webhook import Webhook

if TYPE_CHECKING:
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.outcome import Release

MOST_GATE_BYTES = 4 << 20


@click.command()
@bundle_argument
@with_options
def cli(
    bundle: Path,
    cluster: ClusterOptions = CLUSTER,
    place: ModelPlace = MODEL_PLACE,
    gate: InputFile | None = setting(
        None,
        "Report of darl gate --out; the release is refused unless the gate passed this bundle.",
        env="DARL_GATE",
    ),
    options: ReleaseOptions = setting(..., "the release"),
    warm: str | None = setting(
        None,
        "Before the switch, encode items of --index with the new version and keep their states in --states: all, "
        "or as a number those that the OOD log has most pairs of.",
        metavar="all|N",
        env="DARL_WARM",
    ),  # fmt: skip
    place_of_states: StatesPlace = setting(..., "the item states"),
    webhook: str | None = WEBHOOK,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Switch the search pipelines to BUNDLE under live traffic.

    The model is registered and deployed next to the old one, and its answers are compared with the bundle's. Then one
    request switches each pipeline; the old version stays deployed for darl rollback. Exit code 3 if the gate refused
    the bundle or the model's answers differ: the old version keeps serving.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.release import release
    from darl_opensearch.warm import WarmOptions, warm_index

    if warm:
        parse_item_count(warm)
        if options.index is None or place_of_states.states is None:
            raise UsageError("--warm requires --index and --states", todo="pass the folder that darl serve uses")
    hook = Webhook.of(webhook)
    report = read_gate_report(gate) if gate else None
    options = dataclasses.replace(options, mode=place.mode, scorer=place.scorer, gate=report)
    target = Cluster.open(cluster, dry_run=dry_run)
    warmed = None
    if warm and options.index and not dry_run:
        with progress_line("encoding") as line:
            encoding = WarmOptions(**vars(place_of_states))
            warmed = warm_index(Bundle.open(bundle), target, options.index, warm, encoding, on_item=line.count)
        warmed.check(encoding.states)
    with progress_line("registering") as line, refusal_announced(hook, dry_run=dry_run):
        done = release(bundle, target, options, on_chunk=line.count, report=line.report)
    field = TEXT_FIELD if options.mode == "local" else Bundle.open(bundle, verify=False).card.text_field
    for warning in find_warnings(target, options.index, field):
        note(f"warning: {warning}")
    if dry_run:
        emit_calls(target.calls)
        return
    result, text = done.to_json(), released_text(done)
    if warmed is not None:
        result, text = result | {"states": warmed.to_json()}, f"{warmed.describe()}\n{text}"
    if done.warning:
        note(f"warning: {done.warning}")
    emit(result, as_json=as_json, text=text)
    if done.changed:
        announce(hook, "release", done.to_json() | {"note": options.note})
    if gate is None and done.changed and not as_json:
        note("released without a gate report (--gate)")


def find_warnings(cluster: Cluster, index: str | None, field: str = TEXT_FIELD) -> list[str]:
    """Describe what was left behind, and what is wrong with indices that a released pipeline meets.

    :param index: the item index, if it is known.
    :param field: of the item texts that the pipeline sends.
    """
    from darl_opensearch.cluster.default_pipelines import warn_of_default_pipelines
    from darl_opensearch.cluster.models import describe_left
    from darl_opensearch.cluster.without_text import count_documents_without_text, describe_documents_without_text

    found = [describe_left(cluster), warn_of_default_pipelines(cluster)]
    if index is not None:
        try:
            found.append(describe_documents_without_text(count_documents_without_text(cluster, index, field), field))
        except ClusterError as err:  # the release itself is done
            found.append(f"documents without {field} could not be counted ({err.what})")
    return [text for text in found if text]


def released_text(done: Release) -> str:
    """Describe a release or rollback."""
    if not done.changed:
        return f"pipeline {done.pipeline} already serves {done.served.label}: nothing to do"
    lines = [f"{done.pipeline} now serves {done.served.label} ({done.served.mode}), {done.event} {done.number}"]
    if done.came_from:
        way = "darl rollback" if done.event == "release" else f"darl rollback --to {done.came_from.version}"
        lines.append(f"previous version: {done.came_from.label} ({done.came_from.mode}); {way} restores it")
    if done.deviation is not None:
        lines.append(f"answers match the bundle's within {max(done.deviation, 1e-7):.0e}")
    if done.probe is not None:
        lines.append(f"trial search through the pipeline: {done.probe.hits} hits, within {done.probe.deviation:.0e}")
    lines += [f"setting {name} = {json.dumps(value)}" for name, value in done.settings.items()]
    lines += [f"search pipeline {name} {change}" for name, change in done.pipelines.items()]
    lines += [f"{version.label} undeployed" for version in done.undeployed]
    return "\n".join(lines)


def read_gate_report(path: Path) -> dict[str, Any]:
    """Read a ``darl gate --out`` report."""
    if path.stat().st_size > MOST_GATE_BYTES:
        raise InputError("too large for a darl gate report", where=str(path), todo="create it with darl gate --out")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"not JSON ({err})", where=str(path), todo="create it with darl gate --out") from err
    if not isinstance(report, dict):
        raise InputError("not a JSON object", where=str(path), todo="create it with darl gate --out")
    return report
