"""Running a node from the official image, for machines with Docker and no Java."""

from __future__ import annotations

import shutil
import subprocess

from darl_opensearch.errors import DarlError
from darl_opensearch.node.manifest import Manifest
from darl_opensearch.node.ports import HOST
from darl_opensearch.node.process import ProcessState
from darl_opensearch.node.settings import ML_SETTINGS, NodeSpec

STOP_S = 30


def require_docker() -> None:
    """Refuse to go on unless Docker is on PATH and its engine answers.

    :raises DarlError: if either is missing.
    """
    if shutil.which("docker") is None:
        raise DarlError("docker is not on PATH", where="docker", todo="install Docker")
    try:
        run_docker("info", "--format", "{{.ServerVersion}}", timeout_s=20)
    except DarlError as err:
        raise DarlError(f"the engine does not answer ({err.what})", where="docker", todo="start it") from err


def run_arguments(spec: NodeSpec, manifest: Manifest) -> list[str]:
    """Compose the arguments of ``docker`` that start a node."""
    env = {
        "cluster.name": spec.name,
        "node.name": spec.name,
        "discovery.type": "single-node",
        "DISABLE_SECURITY_PLUGIN": "true",
        "DISABLE_INSTALL_DEMO_CONFIG": "true",  # else the entry point asks for an admin password first
        "OPENSEARCH_JAVA_OPTS": spec.java_opts,
        "OPT_OUT_TRACKING": "true",
        **ML_SETTINGS,
    }
    arguments = ["run", "--detach", "--name", spec.name, "--publish", f"{HOST}:{spec.port}:9200"]
    arguments += ["--add-host", "host.docker.internal:host-gateway"]  # a connector reaches scorers on the host by it
    arguments += ["--volume", f"{volume(spec.port)}:/usr/share/opensearch/data"]
    for key, value in env.items():
        arguments += ["--env", f"{key}={value}"]
    return [*arguments, manifest.image]


def start_container(spec: NodeSpec, manifest: Manifest) -> str:
    """Start a container, replacing an earlier one of the same name; Docker pulls a missing image. Return its id."""
    remove_container(spec.name)
    return run_docker(*run_arguments(spec, manifest), timeout_s=1800).splitlines()[-1]


def look_at_container(container: str) -> ProcessState | None:
    """Look at a container.

    :return: its start time and, as the command, its process number; None if it is not running.
    """
    template = "{{.State.Running}} {{.State.StartedAt}} {{.State.Pid}}"
    try:
        state = run_docker("container", "inspect", "--format", template, container, timeout_s=20)
        running, started, pid = state.split()
    except (DarlError, ValueError):
        return None
    return ProcessState(started, pid) if running == "true" else None


def stop_container(container: str) -> None:
    """Stop a container if it is running, and remove it if it exists."""
    if look_at_container(container) is not None:
        run_docker("stop", "--time", str(STOP_S), container, timeout_s=STOP_S + 30)
    remove_container(container)


def remove_container(container: str) -> None:
    """Remove a container by name or id, running or not, if it exists."""
    try:
        run_docker("container", "inspect", "--format", "{{.Id}}", container, timeout_s=20)
    except DarlError:
        return
    run_docker("rm", "--force", container, timeout_s=60)


def container_log(container: str) -> str:
    """Read the last lines of a container's output, joined by ``|``."""
    command = ["docker", "logs", "--tail", "6", container]
    try:
        logs = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "no log"
    return " | ".join(line.strip()[:400] for line in (logs.stdout + logs.stderr).splitlines()[-6:]) or "an empty log"


def remove_volume(port: int) -> None:
    """Delete a node's data volume."""
    run_docker("volume", "rm", "--force", volume(port), timeout_s=60)


def volume(port: int) -> str:
    """Name the volume that holds a container's data."""
    return f"darl-{port}-data"


def run_docker(*arguments: str, timeout_s: float) -> str:
    """Run docker; return its output, stripped.

    :raises DarlError: if it is missing, fails or takes too long.
    """
    try:
        result = subprocess.run(
            ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except FileNotFoundError:
        raise DarlError("docker is not on PATH", where="docker", todo="install Docker") from None
    except subprocess.TimeoutExpired:
        raise DarlError(f"no answer within {timeout_s:.0f} s", where=f"docker {arguments[0]}") from None
    if result.returncode:
        message = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise DarlError(f"exit code {result.returncode}: {message}", where=f"docker {arguments[0]}")
    return result.stdout.strip()
