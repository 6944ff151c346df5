"""The other way to run a node: the official image, where there is a Docker engine and no Java."""

from __future__ import annotations

import shutil
import subprocess

from darl_opensearch.errors import DarlError
from darl_opensearch.node.manifest import Manifest
from darl_opensearch.node.ports import HOST
from darl_opensearch.node.process import Seen
from darl_opensearch.node.settings import ML_SETTINGS, NodeSpec

STOP_S = 30


def require_docker() -> str:
    """Find Docker, and make sure that its engine answers.

    :raises DarlError: when either is missing.
    """
    found = shutil.which("docker")
    if found is None:
        raise DarlError("docker is not on PATH", where="docker", todo="install Docker")
    try:
        run_docker("info", "--format", "{{.ServerVersion}}", timeout_s=20)
    except DarlError as err:
        raise DarlError(f"the engine does not answer ({err.what})", where="docker", todo="start it") from err
    return found


def run_arguments(spec: NodeSpec, manifest: Manifest) -> list[str]:
    """Compose ``docker run``.

    :return: the arguments after ``docker``.
    """
    env = {
        "cluster.name": spec.name,
        "node.name": spec.name,
        "discovery.type": "single-node",
        "DISABLE_SECURITY_PLUGIN": "true",
        "DISABLE_INSTALL_DEMO_CONFIG": "true",  # else the entry point asks for an admin password first
        "OPENSEARCH_JAVA_OPTS": f"-Xms{spec.heap} -Xmx{spec.heap}",
        "OPT_OUT_TRACKING": "true",
        **ML_SETTINGS,
    }
    arguments = ["run", "--detach", "--name", spec.name, "--publish", f"{HOST}:{spec.port}:9200"]
    arguments += [
        "--add-host",
        "host.docker.internal:host-gateway",
    ]  # so that a connector finds a scorer out here
    arguments += ["--volume", f"{volume(spec.port)}:/usr/share/opensearch/data"]
    for key, value in env.items():
        arguments += ["--env", f"{key}={value}"]
    return [*arguments, manifest.image]


def start_container(spec: NodeSpec, manifest: Manifest) -> str:
    """Start a container, in the place of one of the same name that has ended.

    :param manifest: names the image, which Docker fetches when it has none.
    """
    remove_container(spec.name)
    return run_docker(*run_arguments(spec, manifest), timeout_s=1800).splitlines()[-1]


def look_at_container(container: str) -> Seen | None:
    """Look at a container.

    :return: its start time and, as the command, its process number; None when it does not run.
    """
    template = "{{.State.Running}} {{.State.StartedAt}} {{.State.Pid}}"
    try:
        running, started, pid = run_docker(
            "container", "inspect", "--format", template, container, timeout_s=20
        ).split()
    except (DarlError, ValueError):
        return None
    return Seen(started, pid) if running == "true" else None


def stop_container(container: str) -> None:
    """End a container, if it runs, and remove it, if it is there."""
    if look_at_container(container) is not None:
        run_docker("stop", "--time", str(STOP_S), container, timeout_s=STOP_S + 30)
    remove_container(container)


def remove_container(container: str) -> None:
    """Remove a container, running or not, if it is there.

    :param container: its name or id.
    """
    try:
        run_docker("container", "inspect", "--format", "{{.Id}}", container, timeout_s=20)
    except DarlError:
        return
    run_docker("rm", "--force", container, timeout_s=60)


def container_log(container: str) -> str:
    """Read the end of a container's output.

    :return: the last lines, joined by ``|``.
    """
    try:
        done = subprocess.run(
            ["docker", "logs", "--tail", "6", container],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "no log"
    return " | ".join(line.strip()[:400] for line in (done.stdout + done.stderr).splitlines()[-6:]) or "an empty log"


def remove_volume(port: int) -> None:
    """Delete what a container kept."""
    run_docker("volume", "rm", "--force", volume(port), timeout_s=60)


def volume(port: int) -> str:
    """Name the volume that holds a container's data."""
    return f"darl-{port}-data"


def run_docker(*arguments: str, timeout_s: float) -> str:
    """Run docker once; return what it printed, stripped."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise DarlError("docker is not on PATH", where="docker", todo="install Docker") from None
    except subprocess.TimeoutExpired:
        raise DarlError(f"no answer within {timeout_s:.0f} s", where=f"docker {arguments[0]}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DarlError(f"exit code {done.returncode}: {said}", where=f"docker {arguments[0]}")
    return done.stdout.strip()
