"""Finding what is to be taken away."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.default_pipelines import SETTING, find_default_pipelines
from darl_opensearch.cluster.history import TAKE_OVER_SECONDS, Event, History
from darl_opensearch.cluster.pipelines import PipelineOptions, check_ours, list_models_in
from darl_opensearch.cluster.switching import read_now
from darl_opensearch.cluster.uninstall.find import (
    find_all_models,
    find_changed_settings,
    find_items,
    find_log,
    find_model_groups,
    find_orphans,
    find_users,
    read_other_events,
    sort_models,
)
from darl_opensearch.cluster.uninstall.removal import Removal, UninstallOptions
from darl_opensearch.errors import ClusterError

HISTORY_MARK = "Releases of DaRL"


def plan_removal(cluster: Cluster, options: UninstallOptions | None = None) -> Removal:
    """Find what is to be taken away; nothing is changed.

    :raises ClusterError: if a pipeline or an index of these names is someone else's, an index uses a pipeline by
        default, or a release is under way.
    """
    options = options or UninstallOptions()
    cluster.identify()
    check_ours(cluster, PipelineOptions(name=options.pipeline))
    now = read_now(cluster, options.pipeline)
    _check_defaults(cluster, now.bodies)
    index = _read_history_index(cluster, options.history)
    events = History(cluster, options.pipeline, options.history).events() if index else []
    _check_unfinished(cluster, events)
    served = {one for event in events for one in (event.to, event.came_from) if one is not None}
    if now.served is not None:
        served.add(now.served)
    past = (side for event in events for side in (event.before, event.after))
    bodies = [body for side in (now.bodies, *past) for body in side.values()]
    ids = {one.model_id for one in served} | {model for body in bodies for model in list_models_in(body)}
    names = {one.name for one in served} | set(options.bundle_names)
    found = find_all_models(cluster, ids - {""}, names)
    going, kept = sort_models(found, find_users(cluster, options, set(now.bodies), index=index))
    connectors = find_orphans(cluster, names, going)
    groups, kept_groups = find_model_groups(cluster, names, served, found, going)
    foreign = read_other_events(cluster, options)[0] if index else 0
    stream, template, kept_log = find_log(cluster, options)
    return Removal(
        options,
        pipelines=now.bodies,
        models=tuple(going),
        connectors=connectors,
        groups=groups,
        events=len(events),
        history=options.history if index and not foreign else None,
        stream=stream,
        template=template,
        kept=(*kept, *kept_groups, *kept_log, *find_items(cluster), *find_changed_settings(cluster)),
    )


def _check_defaults(cluster: Cluster, names: Collection[str]) -> None:
    """Refuse to delete a pipeline without which every search of an index would fail."""
    using = [index for index, pipeline in find_default_pipelines(cluster).items() if pipeline in names] if names else []
    if using:
        raise ClusterError(
            f"a pipeline to be deleted is the default of {', '.join(using)}, whose searches would then fail",
            where=cluster.url,
            todo=f'first send PUT {join_path(using[0])}/_settings {{"{SETTING}": "_none"}}, for each of them',
        )


def _read_history_index(cluster: Cluster, index: str) -> bool:
    """Whether the history's index is there.

    :raises ClusterError: if it is something else.
    """
    found = cluster.read("GET", join_path(index), absent={})
    for definition in found.values():
        meta = definition.get("mappings", {}).get("_meta", {})
        if not str(meta.get("description", "")).startswith(HISTORY_MARK):
            raise ClusterError(
                f"index {index} is not a release history", where=cluster.url, todo="check --history"
            )  # fmt: skip
    return bool(found)


def _check_unfinished(cluster: Cluster, events: Sequence[Event]) -> None:
    last = events[-1] if events else None
    if last is not None and last.state == "switching" and last.age_seconds < TAKE_OVER_SECONDS:
        raise ClusterError(
            f"a {last.kind} of {last.to.label}, started by {last.who}, is not finished",
            where=cluster.url,
            todo=f"wait for it; if it died, try again in {TAKE_OVER_SECONDS - last.age_seconds:.0f} s",
        )  # fmt: skip
