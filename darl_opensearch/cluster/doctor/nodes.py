"""Versions, plugins and settings: what ``darl register`` checks too."""

from __future__ import annotations

from collections.abc import Iterator

from darl_opensearch.cluster.calls import Call
from darl_opensearch.cluster.compatibility import find_version_error, supports
from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.preflight import (
    Mode,
    change_settings,
    find_missing_parts,
    find_wrong_settings,
)

MODES: tuple[Mode, ...] = ("local", "connector")


def check_version(subject: Subject) -> Iterator[CheckResult]:
    """Check the version of OpenSearch against the modes, and that all nodes have it."""
    identity, mode = subject.identity, subject.mode
    supported = [f"--mode {one}" for one in MODES if supports(identity.version, one)]
    error = find_version_error(identity, mode or "connector", subject.cluster.url)
    if error:
        yield CheckResult("problem", error.what, error.todo)
    else:
        yield CheckResult("ok", f"OpenSearch {identity.number} supports {' and '.join(supported)}")
    versions = sorted({str(node.get("version")) for node in subject.nodes.values()})
    if len(versions) > 1:
        todo = "finish the upgrade before darl register or darl release"
        yield CheckResult("warning", f"the nodes have different versions: {', '.join(versions)}", todo)


def check_plugins(subject: Subject) -> Iterator[CheckResult]:
    """Check each node's plugins and modules."""
    errors = list(find_missing_parts(subject.nodes.values(), subject.cluster.url))
    for error in errors:
        yield CheckResult("problem", error.what, error.todo)
    if not errors:
        yield CheckResult("ok", f"ML Commons and neural-search are installed on {_count(len(subject.nodes), 'node')}")


def check_settings(subject: Subject) -> Iterator[CheckResult]:
    """Check the cluster settings that the mode requires."""
    mode = subject.mode
    if mode is None:
        todo = "pass --mode to check them before darl register"
        yield CheckResult("not checked", f"no pipeline {subject.options.pipeline!r} says which mode is used", todo)
        return
    url = subject.connector_url or subject.options.scorer_url
    if mode == "connector" and url is None:
        yield CheckResult("not checked", "the scorer's URL is not known", "pass --scorer-url")
        return
    wrong = find_wrong_settings(subject.settings, mode, subject.nodes.values(), url)
    transient = subject.cluster.read("GET", "/_cluster/settings?flat_settings=true").get("transient") or {}
    for setting in wrong:
        body = change_settings([setting])
        if setting.name in transient:  # it would override the persistent one
            body["transient"] = {setting.name: None}
        yield CheckResult("problem", str(setting), requests=(Call("PUT", "/_cluster/settings", body),))
    if not wrong:
        yield CheckResult("ok", f"all settings that --mode {mode} requires are set")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
