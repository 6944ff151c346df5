"""The list of what ``darl setup`` puts into a cluster, and how each entry is found, recognised and written.

An entry is ours by a mark that the plugin gives back unchanged: the description of a policy or role, the trigger's id
of a monitor. The mark ends in a digest of what was sent. It alone decides whether an entry is up to date, since the
plugins return bodies with defaults filled in.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from darl_opensearch.cluster.calls import Cluster, is_ours, join_path
from darl_opensearch.cluster.setup.options import Part, SetupOptions
from darl_opensearch.config_files import render_body
from darl_opensearch.io.digest import digest_json

ROLES = ("operator", "loader", "shipper", "reader", "searcher")
MONITORS = ("share_ood", "share_ood_by_slice", "drift", "log_lag", "not_reranked", "releases")
FACTOR = 2.0  # times alpha: the share OOD that raises an alert


@dataclass(frozen=True)
class Found:
    """An entry that is in the cluster.

    :param path: of the entry itself, as ``DELETE`` takes it.
    :param mark: what we would know it by; ``""`` if it is someone else's.
    :param body: as the plugin returned it.
    """

    path: str
    mark: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Asset(ABC):
    """An entry to set up.

    :param body: with the mark in it.
    :param digest: of the body without it.
    """

    part: ClassVar[Part]
    name: str
    body: Mapping[str, Any]
    digest: str

    @abstractmethod
    def find(self, cluster: Cluster) -> Found | None:
        """Look for an entry of this name, whoever made it."""

    @abstractmethod
    def put(self, cluster: Cluster, found: Found | None) -> None:
        """Write the entry, over the one that was found."""

    def is_current(self, found: Found) -> bool:
        """Whether what was found was made from the same body."""
        return found.mark.endswith(self.digest)


class Policy(Asset):
    """A policy of Index State Management."""

    part: ClassVar[Part] = "ism"

    @property
    def path(self) -> str:
        """Address of the policy."""
        return join_path("_plugins", "_ism", "policies", self.name)

    def find(self, cluster: Cluster) -> Found | None:
        """Look for the policy."""
        answer = cluster.read("GET", self.path, absent={})
        return Found(self.path, _described(answer["policy"]), answer) if "policy" in answer else None

    def put(self, cluster: Cluster, found: Found | None) -> None:
        """Write the policy; only over the revision that was found."""
        guard = f"?if_seq_no={found.body['_seq_no']}&if_primary_term={found.body['_primary_term']}" if found else ""
        cluster.send("PUT", self.path + guard, self.body)


class Monitor(Asset):
    """A monitor of the alerting plugin, whose own name for it is an id that it chooses."""

    part: ClassVar[Part] = "monitors"

    def find(self, cluster: Cluster) -> Found | None:
        """Look for a monitor of the same title."""
        # The plugin answers 404 while no monitor was ever made: its index is created with the first.
        place = "/_plugins/_alerting/monitors/_search"
        hits = cluster.read("POST", place, render_body("find_monitors.json"), absent={}).get("hits", {}).get("hits", [])
        for hit in hits:
            monitor = hit["_source"].get("monitor", hit["_source"])
            if monitor.get("name") == self.body["name"]:
                return Found(join_path("_plugins", "_alerting", "monitors", hit["_id"]), _triggered(monitor), monitor)
        return None

    def put(self, cluster: Cluster, found: Found | None) -> None:
        """Write the monitor; one that was switched off stays off."""
        if found is None:
            cluster.send("POST", "/_plugins/_alerting/monitors", self.body)
            return
        cluster.send("PUT", found.path, {**self.body, "enabled": found.body.get("enabled", True)})


class Role(Asset):
    """A role of the security plugin. Users are mapped to it by whoever manages them."""

    part: ClassVar[Part] = "roles"

    @property
    def path(self) -> str:
        """Address of the role."""
        return join_path("_plugins", "_security", "api", "roles", self.name)

    def find(self, cluster: Cluster) -> Found | None:
        """Look for the role."""
        body = cluster.read("GET", self.path, absent={}).get(self.name)
        return Found(self.path, _described(body), body) if isinstance(body, dict) else None

    def put(self, cluster: Cluster, found: Found | None) -> None:
        """Write the role."""
        cluster.send("PUT", self.path, self.body)


def list_assets(options: SetupOptions) -> list[Asset]:
    """List everything that is set up in the cluster itself, in the order in which it is written.

    Saved objects are not among them: they live in Dashboards.
    """
    days = options.retention_days
    policy = {"stream": options.stream, "retention_days": days, "rollover_days": max(1, days // 10)}
    assets: list[Asset] = [_make(Policy, options.stream, "ism_policy.json", policy)]
    assets += [_make(Monitor, key, f"monitor_{key}.json", _monitor_values(key, options)) for key in MONITORS]
    roles = {"stream": options.stream, "history": options.history, "index": list(options.index)}
    return assets + [_make(Role, f"darl_{key}", f"role_{key}.json", _pick(roles, _ROLE_VALUES[key])) for key in ROLES]


_MONITOR_VALUES = {
    "share_ood": ("stream", "min_requests", "share_limit"),
    "share_ood_by_slice": ("stream", "min_requests", "share_limit"),
    "drift": ("stream", "min_requests", "drift_z"),
    "log_lag": ("stream", "lag_minutes"),
    "not_reranked": ("stream", "not_reranked_limit"),
    "releases": ("history",),
}
_ROLE_VALUES = {
    "operator": ("stream", "history", "index"), "loader": ("index",), "shipper": ("stream",),
    "reader": ("stream", "history", "index"), "searcher": ("index",),
}  # fmt: skip


def _monitor_values(key: str, options: SetupOptions) -> dict[str, Any]:
    limit = f"{FACTOR} * alpha" if options.share_limit is None else f"{options.share_limit:.6f}"
    action = [render_body("monitor_action.json", channel=options.channel)] if options.channel else []
    return _pick({**vars(options), "share_limit": limit}, _MONITOR_VALUES[key]) | {"actions": action}


def _pick(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _make(kind: type[Asset], name: str, file: str, values: Mapping[str, Any]) -> Asset:
    digest = digest_json(render_body(file, digest="", **values))
    body = render_body(file, digest=digest, **values)
    made = kind(name, body, digest)
    return dataclasses.replace(made, name=str(body["name"])) if isinstance(made, Monitor) else made


def _described(body: Mapping[str, Any]) -> str:
    return str(body["description"]) if is_ours(body) else ""


def _triggered(monitor: Mapping[str, Any]) -> str:
    triggers = [next(iter(t.values())) if len(t) == 1 else t for t in monitor.get("triggers") or ()]
    marks = [str(trigger.get("id")) for trigger in triggers if str(trigger.get("id")).startswith("darl-")]
    return marks[0] if len(marks) == len(triggers) == 1 else ""
