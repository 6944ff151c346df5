"""What a cluster must provide before anything is registered in it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.compatibility import find_version_error
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, UsageError

Mode = Literal["local", "connector"]

ML = "plugins.ml_commons."
TRUSTED = ML + "trusted_connector_endpoints_regex"
PRIVATE = ML + "connector.private_ip_enabled"
UPLOAD = ML + "allow_registering_model_via_local_file"
LOCAL = ML + "local_model.enabled"
ML_NODES = ML + "only_run_on_ml_node"
REMOTE = ML + "remote_inference.enabled"
CHANGEABLE = (UPLOAD, LOCAL, ML_NODES, REMOTE, PRIVATE, TRUSTED)  # what --apply-settings may change
PLUGINS = {"opensearch-ml": "ML Commons", "opensearch-neural-search": "neural-search"}
MODULES = ("search-pipeline-common", "lang-painless")


@dataclass(frozen=True)
class Setting:
    """A cluster setting that must change.

    :param wanted: the required value; for a list, including the current entries.
    :param why: the reason, as a clause.
    """

    name: str
    value: Any
    wanted: Any
    why: str

    def __str__(self) -> str:
        """``name is x and must be y (why)``."""
        if isinstance(self.wanted, list):
            added = [entry for entry in self.wanted if entry not in (self.value or [])]
            return f"{self.name} lacks {added[0]} ({self.why})"
        return f"{self.name} is {self.value} and must be {str(self.wanted).lower()} ({self.why})"


@dataclass(frozen=True)
class Preflight:
    """The result of the check.

    :param changed: settings that ``--apply-settings`` changed, or would.
    """

    version: str
    changed: tuple[Setting, ...]


def preflight(
    cluster: Cluster, mode: Mode, *, scorer_url: str | None = None, apply_settings: bool = False
) -> Preflight:
    """Check version, plugins and settings; change settings only if allowed.

    :param apply_settings: set required settings persistently; list entries are added.
    :raises ClusterError: if something is missing, with what to do.
    """
    identity = cluster.identify()
    if error := find_version_error(identity, mode, cluster.url):
        raise error
    nodes = read_nodes(cluster).values()
    for error in find_missing_parts(nodes, cluster.url):
        raise error
    problems = find_wrong_settings(read_settings(cluster), mode, nodes, scorer_url)
    settle(cluster, problems, apply_settings=apply_settings)
    return Preflight(identity.number, tuple(problems))


def settle(cluster: Cluster, problems: Sequence[Setting], *, apply_settings: bool) -> None:
    """Change settings persistently, or refuse if that is not allowed.

    :raises ClusterError: naming the settings, or one that keeps its value.
    """
    if not problems:
        return
    if not apply_settings:
        raise ClusterError(
            "; ".join(map(str, problems)),
            where=cluster.url,
            todo="set it, or run this again with --apply-settings",
        )
    cluster.send("PUT", "/_cluster/settings", change_settings(problems))
    if not cluster.dry_run:
        _check_applied(cluster, problems)


def read_settings(cluster: Cluster) -> dict[str, Any]:
    """Read the effective value of each setting: transient, then persistent, then the node's file and defaults."""
    answer = cluster.read("GET", "/_cluster/settings?include_defaults=true&flat_settings=true")
    return {**answer.get("defaults", {}), **answer.get("persistent", {}), **answer.get("transient", {})}


def change_settings(problems: Sequence[Setting]) -> dict[str, Any]:
    """Render the body that sets settings persistently as wanted."""
    return render_body("settings.json", settings={problem.name: problem.wanted for problem in problems})


def endpoint_regex(url: str) -> str:
    """Write the regular expression, for Java and Python alike, that trusts only the server of a URL."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return "^" + re.sub(r"([.\[\]])", r"\\\1", origin) + "/.*$"


def read_nodes(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Read each node's name, version, roles, plugins and modules, by node id."""
    return dict(cluster.read("GET", "/_nodes/plugins").get("nodes", {}))


def list_plugins(node: Mapping[str, Any]) -> set[Any]:
    """List the names of a node's plugins.

    :param node: see :func:`read_nodes`.
    """
    return {plugin.get("name") for plugin in node.get("plugins", ())}


def find_missing_parts(
    nodes: Iterable[Mapping[str, Any]], url: str, *,
    plugins: Mapping[str, str] = PLUGINS, modules: Sequence[str] = MODULES,
) -> Iterator[ClusterError]:  # fmt: skip
    """Return an error for each plugin or module that a node lacks.

    :param nodes: see :func:`read_nodes`.
    :param url: the cluster, for messages.
    :param plugins: what each plugin is called, by its name.
    """
    for node in nodes:
        has = list_plugins(node)
        name = node.get("name", "?")
        for plugin, title in plugins.items():
            if plugin not in has:
                yield ClusterError(
                    f"node {name} does not have {title} (plugin {plugin})",
                    where=url,
                    todo="install the plugin on every node; the full OpenSearch distribution has it",
                )
        has |= {module.get("name") for module in node.get("modules", ())}
        for module in modules:
            if module not in has:
                yield ClusterError(
                    f"node {name} does not have the module {module}",
                    where=url,
                    todo="use a complete OpenSearch distribution",
                )


def find_wrong_settings(
    settings: Mapping[str, Any], mode: Mode, nodes: Iterable[Mapping[str, Any]], scorer_url: str | None
) -> list[Setting]:
    """List the settings that a mode requires otherwise.

    :param settings: see :func:`read_settings`.
    :param nodes: see :func:`read_nodes`.
    :param scorer_url: that the connector calls.
    """
    if mode == "local":
        has_ml_node = any("ml" in node.get("roles", ()) for node in nodes)
        return _local_problems(settings, has_ml_node=has_ml_node)
    if scorer_url is None:
        raise UsageError("--mode connector requires --scorer-url", todo="pass the URL of darl serve")
    return _connector_problems(settings, scorer_url)


def _local_problems(settings: Mapping[str, Any], *, has_ml_node: bool) -> list[Setting]:
    wanted: list[tuple[str, bool, str]] = [
        (UPLOAD, True, "the model is uploaded in chunks"),
        (LOCAL, True, "the model runs in the cluster"),
    ]
    if not has_ml_node:
        wanted.append((ML_NODES, False, "no node has the role ml"))
    return find_differing(settings, wanted)


def _connector_problems(settings: Mapping[str, Any], scorer_url: str) -> list[Setting]:
    wanted: list[tuple[str, bool, str]] = [(REMOTE, True, "the model runs behind a connector")]
    host = urlsplit(scorer_url).hostname
    if not host:
        raise UsageError(f"{scorer_url!r} is not a URL", todo="write it like http://127.0.0.1:8091/v1/rerank")
    if is_private(host):
        wanted.append((PRIVATE, True, f"{host} is a private address"))
    problems = find_differing(settings, wanted)
    trusted = settings.get(TRUSTED) or []
    trusted = [trusted] if isinstance(trusted, str) else list(trusted)
    if not any(_matches(pattern, scorer_url) for pattern in trusted):
        why = "connectors may only call trusted endpoints"
        problems.append(Setting(TRUSTED, trusted, [*trusted, endpoint_regex(scorer_url)], why))
    return problems


def find_differing(settings: Mapping[str, Any], wanted: Sequence[tuple[str, bool, str]]) -> list[Setting]:
    """Find settings with other values.

    A setting that a version does not have yet is not listed, and cannot be set either.

    :param wanted: name, required value, and the reason as a clause.
    """
    return [
        Setting(name, settings[name], value, why)
        for name, value, why in wanted
        if name in settings and str(settings[name]).lower() != str(value).lower()
    ]


def _check_applied(cluster: Cluster, problems: Sequence[Setting]) -> None:
    settings = read_settings(cluster)
    for problem in problems:
        now = settings.get(problem.name)
        same = (
            now == problem.wanted
            if isinstance(problem.wanted, list)
            else str(now).lower() == str(problem.wanted).lower()
        )
        if not same:
            raise ClusterError(
                f"{problem.name} was set, but is still {now}",
                where=cluster.url,
                todo="remove the transient setting of that name, which overrides persistent ones",
            )


def _matches(pattern: str, url: str) -> bool:
    try:
        return re.fullmatch(pattern, url) is not None
    except re.error:  # Java knows constructs that Python does not: then it is added once more, which harms nothing
        return False


def is_private(host: str) -> bool:
    """Whether ML Commons takes a host, a name or address, for private.

    :return: also True for a name that this machine cannot resolve: container networks have such names.
    """
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            addresses = [
                ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in socket.getaddrinfo(host, None)
            ]
        except OSError:
            return True
    return any(address.is_private or address.is_loopback or address.is_link_local for address in addresses)
