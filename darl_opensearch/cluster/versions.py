"""Versions behind a pipeline, and which of them are no longer needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.history import INDEX, Event, History, Served
from darl_opensearch.cluster.switching import LOADED, find_loaded, list_models_in_use, read_now
from darl_opensearch.errors import ClusterError, UsageError

VersionState = Literal["serving", "deployed", "undeployed", "retired"]


@dataclass(frozen=True)
class Version:
    """A version that serves, has served, or was refused.

    :param state: ``serving``; ``deployed``: loaded, for an instant rollback; ``undeployed``: a rollback loads it first;
        ``retired``: its model was deleted.
    :param model_state: the model's state in ML Commons; None if it is gone.
    :param event: the newest event about it; None if darl release never released it.
    :param report: the newest darl gate report about it, if any.
    """

    served: Served
    state: VersionState
    model_state: str | None
    event: Event | None
    report: Mapping[str, Any] | None = None

    @property
    def gate(self) -> dict[str, Any] | None:
        """The gate result in short: measure, changes, measures that gain on the control arm, deciding look."""
        gate = self.report
        if not gate:
            return None
        conditions: Mapping[str, Any] = gate.get("conditions") or {}
        changes = {name: part["changes"][0]["change"] for name, part in conditions.items() if part.get("changes")}
        tested = (conditions.get("control") or {}).get("changes") or []
        gained = [change["measure"] for change in tested if (change.get("gain") or {}).get("holds")]
        return {
            "passed": gate.get("passed"), "measure": gate.get("measure"), "gained": gained,
            "decided": gate.get("decided"), **changes,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        event = self.event
        return {
            **vars(self.served), "state": self.state, "model_state": self.model_state, "gate": self.gate,
            "released": event and event.started, "event": event and event.kind, "number": event and event.number,
            "finished": bool(event and event.state == "done"), "who": event and event.who,
            "note": event and (event.note or None), "cycle": event and (event.cycle or None),
            "reason": event and (event.reason or None),
        }  # fmt: skip


def list_versions(cluster: Cluster, pipeline: str = "darl", *, history: str = INDEX) -> list[Version]:
    """List a pipeline's versions, each once: the serving one first, then the newest first."""
    events = History(cluster, pipeline, history).events()
    now = read_now(cluster, pipeline).served
    newest: dict[str, tuple[Served, Event | None]] = {now.model_id: (now, None)} if now else {}
    for event in reversed(events):
        for served, about in ((event.to, event), (event.came_from, None)):
            if served is None or not served.model_id:
                continue
            if newest.get(served.model_id, (None, None))[1] is None:
                newest[served.model_id] = (served, about)
    reports = {event.to.model_id: event.gate for event in events if event.gate}
    states = find_loaded(cluster, newest.keys())
    return [
        Version(
            served,
            _state(served, now, states.get(key)),
            states[key].state if key in states else None,
            event,
            reports.get(key),
        )  # fmt: skip
        for key, (served, event) in newest.items()
    ]


def find_superfluous(events: Sequence[Event], serving: Served, keep: int) -> tuple[Served, ...]:
    """Return versions that need not stay deployed, refused ones included, newest first.

    :param events: of a pipeline, oldest first.
    :param keep: number of earlier versions that stay deployed.
    """
    served: dict[str, Served] = {}
    refused: dict[str, Served] = {}
    for event in reversed(events):
        if event.kind == "refused":
            refused.setdefault(event.to.model_id, event.to)
            continue
        for version in filter(None, (event.to, event.came_from)):
            served.setdefault(version.model_id, version)
    served.pop(serving.model_id, None)
    needed = {serving.model_id, "", *served}
    return (*list(served.values())[keep:], *(version for key, version in refused.items() if key not in needed))


def delete_version(cluster: Cluster, words: str, pipeline: str = "darl", *, history: str = INDEX) -> Version:
    """Delete an old version's model and its connector from the cluster.

    :param words: its version, or ``name:version``.
    :param history: index of the release history, which is kept.
    :raises ClusterError: if a pipeline names it.
    :raises UsageError: if no version, or more than one, matches.
    """
    present = [each for each in list_versions(cluster, pipeline, history=history) if each.state != "retired"]
    matching = [each for each in present if each.served.is_called(words)]
    if len(matching) != 1:
        choices = ", ".join(f"{each.served.name}:{each.served.version}" for each in present) or "none"
        raise UsageError(
            f"{'no' if not matching else 'more than one'} version matches {words!r}", where=f"pipeline {pipeline}",
            todo=f"choose from {choices}",
        )  # fmt: skip
    [version] = matching
    if version.served.model_id in list_models_in_use(cluster):
        raise ClusterError(
            f"a search pipeline uses {version.served.label}", where=cluster.url, todo="release another version first"
        )
    models.remove_model(cluster, find_loaded(cluster, [version.served.model_id])[version.served.model_id])
    return version


def _state(served: Served, now: Served | None, model: models.FoundModel | None) -> VersionState:
    if now is not None and served.model_id == now.model_id:
        return "serving"
    if model is None:
        return "retired"
    return "deployed" if model.state in LOADED else "undeployed"
