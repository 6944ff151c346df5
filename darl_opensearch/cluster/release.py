"""Releasing a bundle: register, probe, switch the pipelines, keep the old version for a rollback.

Every step can be repeated. If killed between any two requests, the same command finishes: the model is found by its
digest, the unfinished event by its model, and only pipelines that differ are written.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.connector import ScorerAddress
from darl_opensearch.cluster.history import TAKE_OVER_SECONDS, History, Served
from darl_opensearch.cluster.models import OnChunk
from darl_opensearch.cluster.outcome import Release
from darl_opensearch.cluster.pipelines import (
    Change,
    PipelineOptions,
    check_ours,
    fetch_max_result_window,
    read_options,
    render_pipelines,
)
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.cluster.probe import ProbeFailed, probe_search
from darl_opensearch.cluster.register import NotVerified, RegisterOptions, register
from darl_opensearch.cluster.rollback import RollbackOptions, rollback
from darl_opensearch.cluster.switching import (
    Now,
    ReleaseRefused,
    SwitchOptions,
    read_now,
    refuse,
    switch,
    take_over,
    undeploy,
)
from darl_opensearch.cluster.versions import Version, find_superfluous, list_versions
from darl_opensearch.errors import DarlError, GateRefused, InputError, UsageError
from darl_opensearch.settings import setting

__all__ = [
    "Release", "ReleaseOptions", "ReleaseRefused", "RollbackOptions", "Version", "release", "rollback", "list_versions",
]  # fmt: skip

Report = Callable[[str, int, int], object]
STEPS = ("registering", "probing", "switching", "retiring")


class ReleaseOptions(SwitchOptions):
    """Options of ``darl release``.

    :param scorer: address of the new version's scorer, for ``connector``.
    :param gate: report of ``darl gate`` about this bundle; the release is refused unless it passed.
    """

    mode: Mode = "local"
    scorer: ScorerAddress | None = None
    gate: Mapping[str, Any] | None = None
    index: str | None = setting(None, "item index for a trial search through the new pipeline", env="DARL_INDEX")
    keep: int = setting(
        2, "earlier versions that stay deployed; older ones are undeployed until a rollback needs them", least=0,
        env="DARL_KEEP",
    )  # fmt: skip
    max_k: int | None = setting(
        None, "maximum pairs scored per search.  [default: unchanged]", least=1, most=10_000, env="DARL_MAX_K"
    )
    oversample: int | None = setting(
        None, "candidates fetched per requested hit.  [default: unchanged]", least=1, most=1000, env="DARL_OVERSAMPLE"
    )
    max_result_window: int | None = setting(
        None, "index.max_result_window of the searched index.  [default: that of --index, otherwise unchanged]",
        least=1, env="DARL_MAX_RESULT_WINDOW",
    )  # fmt: skip
    query_path: str | None = setting(
        None, "where the search body has the query's text.  [default: unchanged]", env="DARL_QUERY_PATH"
    )
    with_query_id: bool | None = setting(
        None, "pass ext.ml_inference.query_id and .slice to the scorer.  [default: unchanged]",
        env="DARL_WITH_QUERY_ID", flag="--with-query-id/--without-query-id",
    )  # fmt: skip
    apply_settings: bool = setting(False, "change cluster settings as required", flag="--apply-settings")
    grace: float = setting(
        30.0, "maximum seconds to wait for running searches before an old model is undeployed", least=0,
        env="DARL_GRACE",
    )  # fmt: skip

    def check(self) -> None:
        """Also refuse a mode without its scorer."""
        super().check()
        if self.mode == "connector" and self.scorer is None:
            raise UsageError("--mode connector requires --scorer-url", todo="pass the URL of the new version's scorer")

    def registration(self, pipeline: PipelineOptions) -> RegisterOptions:
        """Options to register the bundle with before its release: no pipeline is written."""
        return RegisterOptions(
            mode=self.mode, scorer=self.scorer if self.mode == "connector" else None, pipeline=pipeline,
            apply_settings=self.apply_settings, deploy_timeout=self.deploy_timeout, switch=False,
        )  # fmt: skip


def release(
    bundle: Bundle | str | os.PathLike[str],
    cluster: Cluster,
    options: ReleaseOptions | None = None,
    *,
    on_chunk: OnChunk | None = None,
    report: Report = lambda what, done, total: None,
) -> Release:
    """Switch the search pipelines to a bundle under live traffic.

    :param bundle: the bundle, or its folder.
    :param on_chunk: called after each uploaded chunk with chunks done and chunks in all.
    :param report: called with the step's name, steps done and steps in all.
    :return: the outcome; in a dry run the expected one, with the requests in ``cluster.calls``.
    :raises ReleaseRefused: if the gate or a probe failed; the old version keeps serving.
    :raises ClusterError: if the cluster cannot be reached, or another command is releasing to the same pipeline.
    """
    options = options or ReleaseOptions()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    history = History(cluster, options.pipeline, options.history)
    events, now = history.events(), read_now(cluster, options.pipeline)
    check_ours(cluster, PipelineOptions(name=options.pipeline))
    if no := find_gate_refusal(options.gate, opened, now):
        raise _refused(history, no, opened, "", options, now)

    report(STEPS[0], 0, len(STEPS))
    chosen = _pipeline_options(cluster, options, now)
    try:
        registered = register(opened, cluster, options.registration(chosen), on_chunk=on_chunk)
        to = Served(opened.card.name, opened.card.version, options.mode, registered.model_id)
        report(STEPS[1], 1, len(STEPS))
        probe = None
        if options.index is not None and not cluster.dry_run:
            probe = probe_search(cluster, opened, options.mode, registered.model_id, options.index)
    except (NotVerified, ProbeFailed) as err:
        raise _refused(history, err, opened, _unload(cluster, opened, options), options, now) from err

    report(STEPS[2], 2, len(STEPS))
    after = render_pipelines(opened.card, options.mode, registered.model_id, chosen)
    event = events[-1] if events else None
    if event is not None and event.state != "switching":
        event = None
    if event is not None and (event.kind, event.to) != ("release", to):
        closed, now = take_over(history, event, now, TAKE_OVER_SECONDS)
        events, event = [*events[:-1], closed], None
    if event is None and read_now(cluster, options.pipeline).bodies != after:
        event = history.begin(
            events[-1].number if events else 0, "release", to, came_from=now.served, before=now.bodies, after=after,
            who=options.who, note=options.note, cycle=options.cycle, gate=options.gate,
        )  # fmt: skip
    changes: Mapping[str, Change] = dict.fromkeys(after, "unchanged")
    if event is not None:
        changes = switch(cluster, after)
        event = history.close(event, "done", after=after)
    report(STEPS[3], 3, len(STEPS))
    past = [earlier for earlier in events if event is None or earlier.number != event.number] + (
        [event] if event else []
    )
    undeployed = undeploy(cluster, find_superfluous(past, to, options.keep), grace_seconds=options.grace)
    report(STEPS[3], 4, len(STEPS))
    return Release(
        event="release",
        pipeline=options.pipeline,
        served=to,
        came_from=event.came_from if event else now.served,
        number=event.number if event else None,
        pipelines=changes,
        deviation=registered.deviation,
        probe=probe,
        undeployed=undeployed,
        settings=registered.settings,
        warning=registered.warning,
    )


def _pipeline_options(cluster: Cluster, options: ReleaseOptions, now: Now) -> PipelineOptions:
    """Take the existing pipeline's options, except those given and what the index says."""
    current = PipelineOptions(name=options.pipeline)
    if options.pipeline in now.bodies and now.served is not None:
        current = read_options(options.pipeline, now.bodies, now.served.mode)
    room = options.max_result_window
    if room is None and options.index is not None:
        room = fetch_max_result_window(cluster, options.index)
    asked: dict[str, Any] = {
        "max_k": options.max_k, "oversample": options.oversample, "query_path": options.query_path,
        "with_query_id": options.with_query_id, "max_result_window": room,
    }  # fmt: skip
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.query_path == "":
        asked["query_path"] = None  # the default, where the pipeline has another
    if options.mode == "local" and current.with_query_id:
        asked.setdefault("with_query_id", False)  # an in-cluster model takes none
    return dataclasses.replace(current, **asked)


def find_gate_refusal(gate: Mapping[str, Any] | None, bundle: Bundle, now: Now) -> DarlError | None:
    """Return why a gate report forbids the release, or None.

    :raises InputError: for anything but a gate report.
    """
    if gate is None:
        return None
    try:
        passed, old, new = gate["passed"], gate["old"], gate["new"]
        about = (new["name"], new["version"], new["identity"])
        against, reasons = (old["name"], old["version"]), "; ".join(gate["reasons"])
    except (KeyError, TypeError) as err:
        raise InputError(f"not a darl gate report ({err})", todo="create it with darl gate --out") from err
    where = str(bundle.path)
    if about != (bundle.card.name, bundle.card.version, bundle.identity):
        return GateRefused(
            f"the gate report is about another bundle, {new['name']} {new['version']}", where=where,
            todo="run darl gate on this bundle",
        )  # fmt: skip
    if passed is not True:
        return GateRefused(f"the gate refused the bundle ({reasons})", where=where, todo="see the gate report")
    served = now.served
    if served is not None and (served.name, served.version) not in (against, about[:2]):
        return GateRefused(
            f"the gate compared it with {' '.join(against)}, but {served.label} is serving", where=where,
            todo="run darl gate against the serving bundle",
        )  # fmt: skip
    return None


def _refused(
    history: History, error: DarlError, bundle: Bundle, model_id: str, options: ReleaseOptions, now: Now
) -> ReleaseRefused:
    to = Served(bundle.card.name, bundle.card.version, options.mode, model_id)
    return refuse(
        history, error, "release", to, now, who=options.who, note=options.note, cycle=options.cycle, gate=options.gate
    )


def _unload(cluster: Cluster, bundle: Bundle, options: ReleaseOptions) -> str:
    """Unload a model that did not pass, unless a pipeline uses it; return its id."""
    name = (models.local_name if options.mode == "local" else models.connector_name)(bundle.card)
    registered = models.find_models(cluster, name)
    served = [Served(bundle.card.name, bundle.card.version, options.mode, model.model_id) for model in registered]
    undeploy(cluster, served, grace_seconds=0.0)  # nothing ever asked it but the probe
    return registered[-1].model_id if registered else ""
