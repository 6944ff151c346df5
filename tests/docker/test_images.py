"""The scorer's images: their RUN steps are executed outside a container, and what they made serves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.helpers.dockerfile import Execution, exec_form, instructions, last_stage, pairs

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = ("cpu", "gpu")
FORBIDDEN = {"torch", "transformers", "peft", "optimum", "onnx"}


def text_of(image):
    return (DOCKER / f"Dockerfile.{image}").read_text()


def packages(root):
    """Names of what is installed in the image's environment."""
    site = next((root / "opt/darl/lib").glob("python3.*/site-packages"))
    return {re.sub(r"[-_.]+", "-", d.name.split("-")[0]).lower() for d in site.glob("*.dist-info")}


@pytest.fixture(scope="module")
def cpu_image(tmp_path_factory):
    """The CPU image's file system, made by the Dockerfile's own steps."""
    execution = Execution(ROOT, tmp_path_factory.mktemp("image"))
    execution.run_file(text_of("cpu"))
    assert execution.left_out == []
    return execution.root


def test_the_cpu_image_holds_the_scorer_and_no_torch(cpu_image):
    installed = packages(cpu_image)
    assert {"darl-opensearch", "onnxruntime", "tokenizers", "uvicorn"} <= installed
    assert not installed & (FORBIDDEN | {"onnxruntime-gpu"})
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run([cpu_image / "opt/darl/bin/darl", "--help"], capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == 0 and "serve" in done.stdout


@pytest.mark.parametrize(("name", "folder"), [("node", "node"), ("demo", "cli/demo")])
def test_the_cpu_image_leaves_out_what_is_there_to_try_things_on(cpu_image, name, folder):
    site = next((cpu_image / "opt/darl/lib").glob("python3.*/site-packages"))
    assert (site / "darl_opensearch/cli").is_dir() and not (site / "darl_opensearch" / folder).exists()
    env = {"PATH": os.environ["PATH"]}
    command = [cpu_image / "opt/darl/bin/darl", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == 1
    assert done.stderr == f"darl: darl {name} is not part of the scorer image. Use a checkout (see README.md).\n"


@pytest.mark.parametrize("keeps_states", [False, True])
def test_the_cpu_image_serves_a_bundle(cpu_image, tiny, small, keeps_states):
    bundle = small[1] if keeps_states else tiny
    stage = last_stage(text_of("cpu"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    execution = Execution(ROOT, cpu_image)
    env = {name: execution.mapped(value) for name, value in pairs(stage["ENV"]).items()}
    env |= {"DARL_HOST": "127.0.0.1", "DARL_PORT": str(port)}
    env["PATH"] = env["PATH"].replace("$PATH", os.environ["PATH"])
    words = exec_form(stage["ENTRYPOINT"]) + [
        str(bundle.path) if w == "/bundle" else w for w in exec_form(stage["CMD"])
    ]
    words[0] = shutil.which(words[0], path=env["PATH"])
    assert words[0].startswith(str(cpu_image))
    process = subprocess.Popen(words, env=env, cwd="/", stderr=subprocess.PIPE, text=True)
    try:
        check = [str(cpu_image / "opt/darl/bin/python3"), *exec_form(stage["HEALTHCHECK"])[1:]]
        deadline = time.monotonic() + 30
        while subprocess.run(check, env=env, capture_output=True).returncode and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        body = {"query": "stolen bicycle", "documents": ["ski week", "stolen bicycles"]}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            answer = client.post("/v1/rerank", json=body)
        assert answer.status_code == 200
        if not keeps_states:  # the other one's encoder is random
            assert answer.json()["results"][0]["index"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert (cpu_image / "var/lib/darl/ood.sqlite").exists()
    assert (cpu_image / "var/lib/darl/states/states.sqlite").exists() == keeps_states


def test_the_gpu_images_steps_hold_together(tmp_path):
    """apt-get needs the base image, and onnxruntime-gpu is 300 MB: its step is resolved, not downloaded."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed")
    resolve = f"{uv} pip install --dry-run --python /opt/darl/bin/python --require-hashes -r locks/runtime-gpu.txt"
    pip = "/opt/darl/bin/python -m pip install --require-hashes -r locks/runtime-gpu.txt"
    assert pip in " ".join(text_of("gpu").split())
    execution = Execution(ROOT, tmp_path, instead={pip: f"{resolve} > /src/plan.txt 2>&1"})
    # uv lies outside the image's paths; it is no part of the Dockerfile.
    mapped = execution.mapped
    execution.mapped = lambda command: mapped(command.replace(uv, "UV")).replace("UV", uv)
    execution.run_file(text_of("gpu"))
    assert [step.split()[0] for step in execution.left_out] == ["apt-get"]
    plan = {
        line.split()[1].split("==")[0]
        for line in (tmp_path / "src/plan.txt").read_text().splitlines()
        if line.startswith(" + ")
    }
    assert {"onnxruntime-gpu", "tokenizers", "uvicorn"} <= plan
    assert not plan & (FORBIDDEN | {"onnxruntime"})
    assert "darl-opensearch" in packages(tmp_path)


@pytest.mark.parametrize("image", IMAGES)
def test_no_image_runs_as_root_or_installs_what_is_not_locked(image):
    stage = last_stage(text_of(image))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert "/ready" in stage["HEALTHCHECK"] and stage["EXPOSE"] == "8091"
    found = instructions(text_of(image))
    assert len([name for name, _ in found if name == "FROM"]) >= 2
    for name, argument in found:
        if name == "FROM":
            assert ":" in argument.split()[0] or argument.split()[0] == "base"
            assert not argument.split()[0].endswith(":latest")
        for install in re.findall(r"pip install ([^&]*)", argument) if name == "RUN" else []:
            assert "--require-hashes" in install or "--no-deps dist/" in install


@pytest.mark.parametrize("lock", ["requirements/runtime-cpu.txt", "requirements/runtime-gpu.txt", "docker/build.txt"])
def test_locks_have_hashes_and_no_torch(lock):
    text = (ROOT / lock).read_text()
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", text, flags=re.MULTILINE)
    assert names and not {n.lower() for n in names} & FORBIDDEN
    assert "index-url" not in text and "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if "==" in entry.splitlines()[0]:
            assert "--hash=sha256:" in entry


def test_the_two_images_differ_in_what_they_must():
    def steps(image):
        return [
            i for i in instructions(text_of(image).replace(f"runtime-{image}", "runtime")) if i[0] in ("RUN", "COPY")
        ]

    assert [s for s in steps("gpu") if "apt-get" not in s[1]] == steps("cpu")


def test_compose_binds_to_localhost_and_trusts_the_scorer_alone():
    yaml = pytest.importorskip("yaml")
    from darl_opensearch.cluster import ScorerAddress
    from darl_opensearch.node.settings import ML_SETTINGS

    text = (DOCKER / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    ScorerAddress(re.search(r"--scorer-url (\S+)", text)[1])  # what its first lines tell to type is taken
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    build = compose["services"]["scorer"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    node = yaml.safe_load((DOCKER / "opensearch.yml").read_text())
    trusted = "plugins.ml_commons.trusted_connector_endpoints_regex"
    assert {k: v for k, v in node.items() if k in ML_SETTINGS and k != trusted} == {
        k: v for k, v in ML_SETTINGS.items() if k != trusted
    }
    assert [
        bool(re.match(node[trusted][0], url)) for url in ("http://scorer:8091/v1/rerank", "http://other:8091/")
    ] == [True, False]
