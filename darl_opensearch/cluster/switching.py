"""Replacing pipelines under live traffic.

A search reads its pipeline once, when it starts, and the cluster replaces a body atomically: a search sees the old
pipeline or the new one. What remains is to keep the old model until the searches that use it are done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.cluster import models, pipelines
from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.history import INDEX, Bodies, Event, History, Kind, Served, utc_now
from darl_opensearch.cluster.pipelines import Change, PipelineOptions
from darl_opensearch.errors import ClusterError, DarlError, GateRefused
from darl_opensearch.settings import Settings, setting

LOADED = ("DEPLOYED", "PARTIALLY_DEPLOYED", "DEPLOYING")
ATTEMPTS, MIXED_SECONDS = 5, 0.5  # to settle with another command that writes the same pipelines
SEARCH = "indices:data/read/search"


_RANDOM = random.SystemRandom()


class PipelineHistory(Settings):
    """A search pipeline and the index that records its releases."""

    pipeline: str = setting(
        "darl", "name of the search pipeline; NAME-plain is its variant without grades, NAME-hybrid the one for hybrid "
        "queries", env="DARL_PIPELINE",
    )  # fmt: skip
    history: str = setting(INDEX, "index that holds the release history", env="DARL_RELEASES")

    def check(self) -> None:
        """Refuse an invalid pipeline name."""
        PipelineOptions(name=self.pipeline)


class SwitchOptions(PipelineHistory):
    """Options that ``darl release`` and ``darl rollback`` share.

    :param cycle: the cycle that switches, for the history.
    :param who: by default user and host.
    """

    note: str = setting("", "reason to record in the release history", env="DARL_NOTE")
    deploy_timeout: float = setting(300.0, "seconds to wait for the model to load", least=1, env="DARL_DEPLOY_TIMEOUT")
    cycle: str = ""
    who: str | None = None


@dataclass(frozen=True)
class Now:
    """Current state of a pipeline and its variants.

    :param bodies: of those that exist, by name.
    :param served: what the graded one serves; None if it does not exist.
    """

    bodies: Bodies
    served: Served | None


def read_now(cluster: Cluster, name: str) -> Now:
    """Read a pipeline and its variants."""
    fetched = {pipeline: pipelines.fetch_pipeline(cluster, pipeline) for pipeline in pipelines.list_names(name)}
    bodies = {pipeline: body for pipeline, body in fetched.items() if body is not None}
    return Now(bodies, Served.of_pipeline(bodies[name]) if name in bodies else None)


def switch(cluster: Cluster, after: Bodies) -> dict[str, Change]:
    """Write pipelines, one request each, and read them back.

    Where another command writes them at the same time, they are left as one of the two wrote them: if only some are as
    sent, all are sent again after a random wait.

    :raises ClusterError: if they differ from what was sent.
    """
    changes = pipelines.put_pipelines(cluster, after)
    if cluster.dry_run:
        return changes
    for _ in range(ATTEMPTS):
        if not (differing := _find_differing(cluster, after)):
            return changes
        if len(differing) < len(after):
            time.sleep(_RANDOM.uniform(0.0, MIXED_SECONDS))
            if 0 < len(_find_differing(cluster, after)) < len(after):
                pipelines.put_pipelines(cluster, after)
    raise ClusterError(
        f"search pipeline {differing[0]!r} differs from what was sent: something else has changed it",
        where=cluster.url,
        todo="check darl versions, then run this again",
    )


def _find_differing(cluster: Cluster, after: Bodies) -> list[str]:
    return [name for name, body in after.items() if pipelines.fetch_pipeline(cluster, name) != body]


def take_over(history: History, last: Event, now: Now, after_seconds: float) -> tuple[Event, Now]:
    """Close an event that another command left unfinished, as done if its pipelines are in place.

    :param after_seconds: age below which the other command may still be running.
    :return: the event as it is now, and the current state: the one before it unless all pipelines were switched.
    :raises ClusterError: if it is too recent.
    """
    if (age := last.age_seconds) < after_seconds:
        when = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s from now, by the clock of this machine,"
        raise ClusterError(
            f"a {last.kind} of {last.to.label}, started {when} by {last.who}, is not finished",
            where=history.cluster.url,
            todo=f"wait for it; if it died, this can take over in {after_seconds - age:.0f} s",
        )
    if now.bodies == last.after:
        return history.close(last, "done"), now
    reason = "the command ended before the pipelines were switched"
    return history.close(last, "abandoned", reason=reason), Now(last.before, last.came_from)


def find_loaded(cluster: Cluster, model_ids: Collection[str]) -> dict[str, models.FoundModel]:
    """Find loaded models among some ids."""
    return {model.model_id: model for model in models.find_models_by_id(cluster, model_ids)} if model_ids else {}


def list_models_in_use(cluster: Cluster) -> set[str]:
    """List the models that any search pipeline of the cluster names."""
    return set().union(*map(pipelines.list_models_in, pipelines.fetch_pipelines(cluster).values()), set())


def undeploy(cluster: Cluster, served: Sequence[Served], *, grace_seconds: float) -> tuple[Served, ...]:
    """Unload models that no pipeline names, once the running searches are done.

    A search that is still running after the grace period keeps its first-stage order; it does not fail.

    :param served: versions that are no longer needed.
    :param grace_seconds: maximum wait for running searches.
    """
    states = find_loaded(cluster, {version.model_id for version in served})
    loaded = [version for version in served if version.model_id in states and states[version.model_id].state in LOADED]
    if not loaded:
        return ()
    used = list_models_in_use(cluster)
    idle = tuple(version for version in loaded if version.model_id not in used)
    if idle and not cluster.dry_run:
        wait_for_searches(cluster, grace_seconds)
    for version in idle:
        cluster.send("POST", join_path("_plugins", "_ml", "models", version.model_id, "_undeploy"))
    return idle


def wait_for_searches(cluster: Cluster, most_seconds: float) -> bool:
    """Wait until the searches running now are done, whatever starts in the meantime.

    :param most_seconds: maximum wait; the full time if the cluster does not let us list its tasks.
    """
    deadline = time.monotonic() + most_seconds
    try:
        running = _searches(cluster)
        while running and time.monotonic() < deadline:
            time.sleep(models.POLL_SECONDS)
            running &= _searches(cluster)
        return not running
    except ClusterError:
        time.sleep(max(0.0, deadline - time.monotonic()))
        return False


def _searches(cluster: Cluster) -> set[str]:
    nodes: Mapping[str, Any] = cluster.read("GET", f"/_tasks?actions={SEARCH}").get("nodes", {})
    return {task for node in nodes.values() for task in node.get("tasks", {})}


class ReleaseRefused(GateRefused):
    """A release or rollback was refused; the serving version keeps serving.

    :param where: the bundle, or the cluster.
    :param event: the refusal as recorded in the history.
    """

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None, event: Event) -> None:
        super().__init__(what, where=where, todo=todo)
        self.event = event


def refuse(history: History, error: DarlError, kind: Kind, to: Served, now: Now, **fields: Any) -> ReleaseRefused:
    """Record a refusal in the history, and return the error to raise.

    :param **fields: further fields of the event: note, cycle, gate, who.
    :return: the error, even if the cluster does not accept the event.
    """
    reason = f"{kind} refused: {error.what}"
    closed = {"state": "done", "came_from": now.served, "reason": reason} | fields
    try:
        events = history.events()
        event = history.begin(events[-1].number if events else 0, "refused", to, finished=utc_now(), **closed)
    except ClusterError:  # a refusal is a refusal, whether or not it can be written down
        event = Event(history.pipeline, 0, "refused", "done", utc_now(), to, came_from=now.served, reason=reason)
    served = f"; {now.served.label} keeps serving" if now.served else "; nothing is serving"
    return ReleaseRefused(error.what + served, where=error.where, todo=error.todo, event=event)
