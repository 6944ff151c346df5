"""Setting up: everything is looked at first, so that nothing is written where a part would be refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.cluster.calls import Call, Cluster, join_path
from darl_opensearch.cluster.history import History
from darl_opensearch.cluster.pipelines import Change
from darl_opensearch.cluster.preflight import list_plugins, read_nodes
from darl_opensearch.cluster.setup.assets import Asset, Found, list_assets
from darl_opensearch.cluster.setup.dashboards import Dashboards, format_lines, render_saved_objects
from darl_opensearch.cluster.setup.options import PARTS, Part, SetupOptions
from darl_opensearch.connect import calling
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.io.writing import write_lines
from darl_opensearch.ood.stream import ensure_stream, find_update, stream_exists, template

PLUGINS: Mapping[Part, str] = {
    "ism": "opensearch-index-management", "monitors": "opensearch-alerting", "roles": "opensearch-security",
}  # fmt: skip
POLICY_OF = "index.plugins.index_state_management.policy_id"
WHERE_TO = "pass --dashboards-url to import the saved objects, or --out to write them to a file"


@dataclass
class SetUp:
    """Outcome of ``darl setup``.

    :param changes: what was done, by part and name; in a dry run what would be.
    :param skipped: why a part was left out.
    :param managed: backing indices that another policy manages, by policy; they are left to it.
    :param file: where the saved objects were written.
    """

    changes: dict[Part, dict[str, Change]] = field(default_factory=dict)
    skipped: dict[Part, str] = field(default_factory=dict)
    managed: dict[str, str] = field(default_factory=dict)
    file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return dict(vars(self))


def set_up(
    cluster: Cluster,
    options: SetupOptions,
    only: Sequence[Part] = (),
    *,
    dashboards: Dashboards | None = None,
    out: Path | None = None,
) -> SetUp:
    """Set up the parts that the cluster's plugins allow. Repeating it changes nothing.

    :param only: the parts to set up; empty: all that are possible.
    :param dashboards: imports the saved objects.
    :param out: file that the saved objects are written to instead.
    :return: the outcome; in a dry run the expected one, with the requests in ``cluster.calls``.
    :raises ClusterError: if a plugin that ``only`` requires is missing, or an entry of that name is not ours.
    :raises UsageError: if a part in ``only`` lacks an option.
    """
    done = SetUp()
    chosen = _choose(cluster, options, only, done, to_dashboards=dashboards is not None or out is not None)
    assets = [asset for asset in list_assets(options) if asset.part in chosen]
    found = [_find(cluster, asset) for asset in assets]
    saved = render_saved_objects(options) if "dashboards" in chosen else []
    compared = dashboards.compare(saved, options.workspace) if dashboards else {}

    if {"ism", "monitors"} & set(chosen):  # the plugins refuse to watch an index that is not there
        _ensure_indices(cluster, options)
    for asset, present in zip(assets, found, strict=True):
        change = _change(asset, present)
        if change != "unchanged":
            asset.put(cluster, present)
        if asset.part == "ism":
            done.managed = _attach(cluster, options.stream, asset.name, again=change == "updated")
        done.changes.setdefault(asset.part, {})[asset.name] = change
    if dashboards and saved:
        if set(compared.values()) != {"unchanged"}:
            dashboards.import_objects(saved, options.workspace)
        done.changes["dashboards"] = compared
    if out is not None and saved and not cluster.dry_run:
        write_lines(out, format_lines(saved))
        done.file = str(out)
    return done


def _choose(
    cluster: Cluster, options: SetupOptions, only: Sequence[Part], done: SetUp, *, to_dashboards: bool
) -> list[Part]:
    wanted = [part for part in PARTS if not only or part in only]
    missing = _missing_plugins(cluster) if set(wanted) & PLUGINS.keys() else {}
    chosen: list[Part] = []
    for part in wanted:
        problem: ClusterError | UsageError
        plugin = PLUGINS.get(part, "")
        if plugin in missing:
            what, todo = f"node {missing[plugin]} does not have the plugin {plugin}", "install it on every node"
            problem = ClusterError(f"--only {part}: {what}", where=cluster.url, todo=todo)
        elif part == "roles" and not options.index:
            what, todo = "the item index is not named", "pass --index, once for each item index"
            problem = UsageError(f"--only roles: {what}", todo=todo)
        elif part == "dashboards" and not to_dashboards:
            what, todo = "there is no place to put the saved objects", WHERE_TO
            problem = UsageError(f"--only dashboards: {what}", todo=todo)
        else:
            chosen.append(part)
            continue
        if only:
            raise problem
        done.skipped[part] = f"{what}; {todo}"
    return chosen


def _missing_plugins(cluster: Cluster) -> dict[str, str]:
    """Find what a node lacks: its name, by plugin."""
    cluster.identify()
    missing: dict[str, str] = {}
    for node in read_nodes(cluster).values():
        lacking = set(PLUGINS.values()) - list_plugins(node)
        missing |= dict.fromkeys(lacking, str(node.get("name", "?")))
    return missing


def _find(cluster: Cluster, asset: Asset) -> Found | None:
    found = asset.find(cluster)
    if found is not None and not found.mark:
        raise ClusterError(
            f"{found.path} ({asset.name}) exists and was not created by darl",
            where=cluster.url,
            todo="delete or rename it, or leave this part out with --only",
        )
    return found


def _change(asset: Asset, found: Found | None) -> Change:
    return "created" if found is None else "unchanged" if asset.is_current(found) else "updated"


def _ensure_indices(cluster: Cluster, options: SetupOptions) -> None:
    History(cluster, "", options.history).ensure_index()
    with calling(cluster.url):
        if not cluster.dry_run:
            ensure_stream(cluster.client, options.stream)
        elif stream_exists(cluster.client, options.stream):
            if update := find_update(cluster.client, options.stream):
                mappings, body = update
                cluster.calls.append(Call("PUT", join_path(options.stream, "_mapping"), mappings))
                cluster.calls.append(Call("PUT", join_path("_index_template", options.stream), body))
        else:
            cluster.calls.append(Call("PUT", join_path("_index_template", options.stream), template(options.stream)))
            cluster.calls.append(Call("PUT", join_path("_data_stream", options.stream)))


def _attach(cluster: Cluster, stream: str, policy: str, *, again: bool) -> dict[str, str]:
    """Attach the policy to the backing indices that are there; those to come get it by its template.

    :param again: move indices that have the policy to its present version.
    :return: indices that another policy manages.
    """
    streams = cluster.read("GET", join_path("_data_stream", stream), absent={}).get("data_streams") or []
    indices = [str(index["index_name"]) for one in streams if one["name"] == stream for index in one["indices"]]
    if not indices:
        return {}
    explained = cluster.read("GET", join_path("_plugins", "_ism", "explain", ",".join(indices)))
    held = {index: (explained.get(index) or {}).get(POLICY_OF) for index in indices}
    free, ours = ([index for index in indices if held[index] == policy_id] for policy_id in (None, policy))
    for verb, which in (("add", free), ("change_policy", ours if again else [])):
        if which:
            answer = cluster.send("POST", join_path("_plugins", "_ism", verb, ",".join(which)), {"policy_id": policy})
            if answer.get("failures"):
                failed = (answer.get("failed_indices") or [{}])[0]
                raise ClusterError(
                    f"the policy was not attached to {failed.get('index_name')} ({failed.get('reason')})",
                    where=cluster.url, todo="run this again",
                )  # fmt: skip
    return {index: str(other) for index, other in held.items() if other and other != policy}
