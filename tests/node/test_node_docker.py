"""The Docker way, against a fake ``docker`` that writes down its arguments.

What these tests show is the command line that we compose and how we take the answers. That the official image
accepts it is not shown here: that takes a Docker engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError
from darl_opensearch.node import NodeSpec, docker, down, lifecycle, node_possible, status, up
from darl_opensearch.node.docker import run_arguments
from darl_opensearch.node.ports import free_port

# `run` leaves a file behind which stands for the container: its text is the state.
DOCKER = """#!{python}
import json, pathlib, sys
world = pathlib.Path({world!r})
with (world / "docker.log").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
container, verb = world / "container", sys.argv[1]
if (world / "no-engine").exists():
    sys.exit("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?")
if verb == "run":
    container.write_text("true" if not (world / "dies").exists() else "false")
    print("Unable to find image locally\\npulling")
    print("c0ffee")
elif verb == "container":
    if not container.exists():
        sys.exit("Error: No such container")
    print(container.read_text(), "2026-04-21T10:00:00Z", 4711)
elif verb == "stop":
    container.write_text("false")
elif verb == "rm":
    container.unlink()
elif verb == "logs":
    print("ERROR: memory is too low", file=sys.stderr)
"""


@pytest.fixture
def engine(world, monkeypatch: pytest.MonkeyPatch):
    """A machine with Docker and no Java."""
    path = world.folder / "bin" / "docker"
    path.write_text(DOCKER.format(python=sys.executable, world=str(world.folder)))
    path.chmod(0o755)
    monkeypatch.setenv("DARL_JAVA_HOME", str(world.folder / "none"))
    monkeypatch.setattr(lifecycle, "get_json", _answers)
    return world


def _answers(port: int, path: str) -> object:
    return {
        "/": {"cluster_name": f"darl-{port}", "version": {"number": "9.9.9"}, "status": "yellow"},
        "/_cluster/health": {"cluster_name": f"darl-{port}", "status": "yellow"},
        "/_cat/plugins": [{"component": "opensearch-ml", "version": "9.9.9.0"}],
    }[path.partition("?")[0]]


def calls(world, verb: str) -> list[list[str]]:
    rows = [json.loads(row) for row in (world.folder / "docker.log").read_text().splitlines()]
    return [row for row in rows if row[0] == verb]


def test_the_command_line(world, monkeypatch) -> None:
    monkeypatch.setenv("OPENSEARCH_JAVA_OPTS", "-Xmx9g -Dx=y")
    arguments = run_arguments(NodeSpec(port=9311, heap="3g"), world.manifest)
    assert arguments[0] == "run" and arguments[-1] == "opensearchproject/opensearch:9.9.9"
    assert arguments[arguments.index("--publish") + 1] == "127.0.0.1:9311:9200"
    assert arguments[arguments.index("--name") + 1] == "darl-9311"
    env = {arguments[at + 1] for at, word in enumerate(arguments) if word == "--env"}
    assert {
        "discovery.type=single-node",
        "DISABLE_SECURITY_PLUGIN=true",
        "DISABLE_INSTALL_DEMO_CONFIG=true",
        "OPENSEARCH_JAVA_OPTS=-Xmx9g -Dx=y -Xms3g -Xmx3g",
        "plugins.ml_commons.only_run_on_ml_node=false",
        "plugins.ml_commons.connector.private_ip_enabled=true",
        r"plugins.ml_commons.trusted_connector_endpoints_regex=^http://(127\.0\.0\.1|host\.docker\.internal):.*$",
    } <= env


def test_up_and_down(engine) -> None:
    assert node_possible().engine == "docker"
    node = up(NodeSpec(port=(port := free_port())))
    assert (node.state, node.engine, node.pid, node.log) == ("running", "docker", 4711, None)
    assert node.reaches_host_as == "host.docker.internal"
    assert status(port).plugins == {"opensearch-ml": "9.9.9.0"}
    up(NodeSpec(port=port))
    assert len(calls(engine, "run")) == 1
    assert down(port).changed is True
    assert calls(engine, "stop") == [["stop", "--time", "30", "c0ffee"]]
    assert calls(engine, "rm") == [["rm", "--force", "c0ffee"]]
    assert not calls(engine, "volume")
    assert engine.mvn_calls() == []


def test_purge_removes_the_volume(engine) -> None:
    up(NodeSpec(port=(port := free_port())))
    down(port, purge=True)
    assert calls(engine, "volume") == [["volume", "rm", "--force", f"darl-{port}-data"]]


def test_purge_after_down_removes_the_volume_too(engine) -> None:
    up(NodeSpec(port=(port := free_port())))
    down(port)
    down(port, purge=True)
    assert calls(engine, "volume") == [["volume", "rm", "--force", f"darl-{port}-data"]]


def test_a_container_that_ends_at_once(engine) -> None:
    (engine.folder / "dies").touch()
    with pytest.raises(DarlError, match=r"the container exited immediately: ERROR: memory is too low\.$"):
        up(NodeSpec(port=free_port()))
    assert not (engine.folder / "container").exists()


def test_no_engine(engine) -> None:
    (engine.folder / "no-engine").touch()
    with pytest.raises(DarlError, match=r"^docker: the engine does not answer \(exit code 1: Cannot connect"):
        up(NodeSpec(port=free_port(), engine="docker"))
    assert "neither Java nor Docker" in node_possible().reason


def test_java_comes_first(engine, monkeypatch) -> None:
    monkeypatch.setenv("DARL_JAVA_HOME", str(engine.jdk.home))
    assert node_possible().engine == "java"
    assert node_possible(NodeSpec(engine="docker")).engine == "docker"


def test_docker_hangs(engine, monkeypatch) -> None:
    Path(engine.folder / "bin" / "docker").write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(DarlError, match=r"^docker info: no answer within 0 s\.$"):
        docker.run_docker("info", timeout_s=0.2)
