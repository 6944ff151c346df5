"""The roles hold the permissions of the requests that the code sends: no fewer, and no more."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from darl_opensearch.cluster.setup.assets import ROLES
from darl_opensearch.cluster.setup.options import SetupOptions
from tests.helpers.actions import INDIRECT, PACKAGE, find_actions, find_senders, requests_of, sent_requests
from tests.helpers.roles import CLUSTER_LEVEL, granted, is_cluster_permission, role_body

SENT = list(sent_requests())


def required(role: str) -> dict[str, str]:
    """The actions that a role's users need, with a place in the code that needs them."""
    return INDIRECT.get(role, {}) | {
        action: f"darl_opensearch/{module}:{line} ({request})"
        for module, line, request in SENT
        if role in (find_senders(module) or ())
        for action in find_actions(request)
    }


def test_every_request_is_known_and_sent_by_some_role():
    unknown = [
        f"darl_opensearch/{module}:{line}: {request}"
        for module, line, request in SENT
        if find_senders(module) is None or (find_senders(module) and not find_actions(request))
    ]
    assert unknown == [], "add its action to tests/helpers/actions.py, and the permission to plugin_config/role_*.json"
    assert len(SENT) > 50, "the requests are no longer found in the source"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_permits_what_its_commands_send(role):
    missing = {action: where for action, where in required(role).items() if not granted(role_body(role), action)}
    assert missing == {}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_permits_nothing_that_no_command_sends(role):
    body, needed = role_body(role), required(role)
    patterns = [*body["cluster_permissions"], *(a for p in body["index_permissions"] for a in p["allowed_actions"])]
    assert [p for p in patterns if not any(fnmatchcase(action, p) for action in needed)] == []


@pytest.mark.parametrize("role", ROLES)
def test_permissions_stand_at_the_level_at_which_they_are_checked(role):
    body = role_body(role)
    assert [action for action in body["cluster_permissions"] if not is_cluster_permission(action)] == []
    index_level = [action for part in body["index_permissions"] for action in part["allowed_actions"]]
    assert [a for a in index_level if is_cluster_permission(a) and a not in ("indices:data/write/bulk*",)] == []
    assert "cluster:" in CLUSTER_LEVEL


def test_a_reader_reads_the_releases_that_the_monitor_shows():
    reader, search = role_body("reader", SetupOptions(index=("products",), history="ours")), "indices:data/read/search"
    assert granted(reader, search, "ours") and not granted(reader, search, "darl-releases")


def test_a_new_request_is_noticed(tmp_path):
    source = tmp_path / "new.py"
    source.write_text(
        "def f(cluster, client, name):\n"
        '    cluster.read("GET", join_path("_snapshot", name))\n'
        "    client.indices.put_settings(index=name)\n"
        '    place = join_path(name, "_close")\n'
        '    cluster.send("POST", f"{place}?wait=1")\n'
    )
    assert [request for _, request in requests_of(source)] == [
        "GET /_snapshot/{}", "client.indices.put_settings", "POST /{}/_close",
    ]  # fmt: skip
    assert not any(find_actions(request) for _, request in requests_of(source))
    assert find_senders("archive.py") is None and PACKAGE.name == "darl_opensearch"
