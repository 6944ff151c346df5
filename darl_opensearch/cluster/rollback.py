"""Rollback: an earlier version serves again, through the pipelines it was served by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.history import TAKE_OVER_SECONDS, Bodies, Event, History, Served
from darl_opensearch.cluster.outcome import Release
from darl_opensearch.cluster.pipelines import HYBRID, Change, PipelineOptions, add_hybrid, check_ours
from darl_opensearch.cluster.probe import ProbeFailed, check_answers
from darl_opensearch.cluster.switching import Now, SwitchOptions, find_loaded, read_now, refuse, switch, take_over
from darl_opensearch.cluster.verify import READY_SECONDS
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.settings import setting


class RollbackOptions(SwitchOptions):
    """Options of ``darl rollback``."""

    to: str | None = setting(
        None, "version to go back to, or NAME:VERSION.  [default: the one before the serving version]",
        env="DARL_ROLLBACK_TO", metavar="VERSION",
    )  # fmt: skip


@dataclass(frozen=True)
class Earlier:
    """A version that served, and its pipelines.

    :param bodies: of the pipelines when it was replaced, by name.
    """

    served: Served
    bodies: Bodies


def rollback(cluster: Cluster, options: RollbackOptions | None = None) -> Release:
    """Switch back to an earlier version.

    Its pipelines are restored as they were when it was replaced, options included. Its model is loaded first if
    necessary and probed before the switch. Without ``to``, each rollback goes back one more release; the same command
    finishes one that was killed.

    :return: the outcome; in a dry run the expected one.
    :raises ReleaseRefused: if the earlier version does not answer; the serving one keeps serving.
    :raises ClusterError: if there is nothing to go back to, or the model is gone.
    :raises UsageError: if no such version ever served.
    """
    options = options or RollbackOptions()
    history = History(cluster, options.pipeline, options.history)
    events, now = history.events(), read_now(cluster, options.pipeline)
    check_ours(cluster, PipelineOptions(name=options.pipeline))
    last = events[-1] if events else None
    event = last if last is not None and last.state == "switching" else None
    if event is not None and event.kind == "rollback" and (not options.to or event.to.is_called(options.to)):
        target = Earlier(event.to, event.after)
    elif event is not None:
        closed, now = take_over(history, event, now, TAKE_OVER_SECONDS)
        target = _target([*events[:-1], closed], now, options)
        event = None
    else:
        target = _target(events, now, options)
    bodies = read_now(cluster, options.pipeline).bodies
    if options.pipeline + HYBRID in bodies and options.pipeline + HYBRID not in target.bodies:
        # Released before there was one: it must not go on serving the version that is left.
        target = replace(target, bodies=add_hybrid(options.pipeline, target.bodies))
    if event is None and bodies == target.bodies:
        same: dict[str, Change] = dict.fromkeys(bodies, "unchanged")
        return Release("rollback", options.pipeline, target.served, now.served, None, same)
    _wake(cluster, target, options, history, now)
    if event is None:
        event = history.begin(
            last.number if last else 0, "rollback", target.served, came_from=now.served, before=now.bodies,
            after=target.bodies, who=options.who, note=options.note, cycle=options.cycle,
        )  # fmt: skip
    changes = switch(cluster, target.bodies)
    event = history.close(event, "done")
    return Release("rollback", options.pipeline, target.served, event.came_from, event.number, changes)


def _target(events: Sequence[Event], now: Now, options: RollbackOptions) -> Earlier:
    """Return the version to go back to, with its pipelines."""
    if not options.to:
        line = list_earlier(events)
        if not line:
            serving = f"before {now.served.label}" if now.served else "to go back to"
            raise ClusterError(
                f"pipeline {options.pipeline!r} has no version {serving} in its history",
                where=f"index {options.history}", todo="see darl versions; darl release writes the history",
            )  # fmt: skip
        return line[-1]
    words = options.to
    if now.served is not None and now.served.is_called(words):
        return Earlier(now.served, now.bodies)
    served = [event for event in reversed(events) if event.kind != "refused"]
    for event in served:
        if event.came_from is not None and event.came_from.is_called(words):
            return Earlier(event.came_from, event.before)
    for event in served:
        if event.state == "done" and event.to.is_called(words):
            return Earlier(event.to, event.after)
    choices = {
        f"{version.name}:{version.version}" for event in served for version in (event.to, event.came_from) if version
    }
    raise UsageError(
        f"version {words!r} never served", where=f"pipeline {options.pipeline}",
        todo=f"choose from {', '.join(sorted(choices)) or 'none'}",
    )  # fmt: skip


def list_earlier(events: Sequence[Event]) -> list[Earlier]:
    """Follow releases and rollbacks to the versions before the serving one.

    A release pushes the version it replaced; a rollback pops down to and including the version it restored. So two
    rollbacks go back two releases and do not undo each other.

    :param events: of a pipeline, oldest first.
    :return: earlier versions, the nearest last.
    """
    line: list[Earlier] = []
    for event in events:
        if event.state == "abandoned" and event.came_from is not None and event is events[-1]:
            line.append(Earlier(event.came_from, event.before))  # never switched as a whole: put back what was there
        if event.state != "done" or event.kind == "refused" or event.came_from is None:
            continue
        places = [place for place, earlier in enumerate(line) if earlier.served == event.to]
        if event.kind == "rollback" and places:
            del line[places[-1] :]
        elif event.to != event.came_from:
            line.append(Earlier(event.came_from, event.before))
    return line


def _wake(cluster: Cluster, target: Earlier, options: RollbackOptions, history: History, now: Now) -> None:
    """Load the earlier version's model if necessary, and probe it."""
    served = target.served
    model = find_loaded(cluster, [served.model_id]).get(served.model_id)
    if model is None:
        raise ClusterError(
            f"the model of {served.label} was deleted",
            where=cluster.url,
            todo="release its bundle again with darl release",
        )
    loaded = model.state == "DEPLOYED"
    if not loaded:
        models.deploy(cluster, served.model_id, timeout=options.deploy_timeout)
    if cluster.dry_run:
        return
    body = target.bodies[options.pipeline]

    def check(ready_within: float) -> None:
        check_answers(
            cluster, served.mode, served.model_id, body, name=options.pipeline, ready_within=ready_within
        )  # fmt: skip

    try:
        try:
            check(0.0 if loaded else READY_SECONDS)
        except ProbeFailed:
            if not loaded:
                raise
            # It is said to be deployed, but after a restart of a node it may not be: load it once more.
            models.deploy(cluster, served.model_id, timeout=options.deploy_timeout)
            check(READY_SECONDS)
    except ProbeFailed as err:
        raise refuse(
            history, err, "rollback", served, now, who=options.who, note=options.note, cycle=options.cycle
        ) from err
