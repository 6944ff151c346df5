"""The KServe manifest fits the image and the service in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darl_opensearch.server import ServerConfig
from darl_opensearch.settings import read_fields
from tests.helpers.dockerfile import exec_form, last_stage, pairs
from tests.helpers.server import running

ROOT = Path(__file__).resolve().parents[2]
# Fields of PredictorSpec in serving.kserve.io/v1beta1 and of the pod spec that is inlined in it, as far as used here.
PREDICTOR = {"minReplicas", "maxReplicas", "securityContext", "containers", "volumes"}
CONTAINER = {
    "name", "image", "ports", "env", "startupProbe", "readinessProbe", "livenessProbe", "resources", "securityContext",
    "volumeMounts",
}  # fmt: skip  # no command and no args: the image runs as it is


@pytest.fixture(scope="module")
def service():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "examples/kserve/inferenceservice.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def container(service):
    (only,) = service["spec"]["predictor"]["containers"]
    return only


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def image(request):
    return last_stage((ROOT / f"docker/Dockerfile.{request.param}").read_text(encoding="utf-8"))


def test_it_is_an_inference_service_with_one_predictor(service, container):
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["spec"].keys() == {"predictor"} and service["spec"]["predictor"].keys() <= PREDICTOR
    assert container["name"] == "kserve-container" and container.keys() <= CONTAINER
    assert service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}


def test_port_user_and_folders_are_the_images(service, container, image):
    assert [str(port["containerPort"]) for port in container["ports"]] == [image["EXPOSE"]]
    security = service["spec"]["predictor"]["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == image["USER"]
    assert security["fsGroup"] == security["runAsGroup"] and security["runAsNonRoot"] is True
    mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    (command, bundle), (program,) = exec_form(image["CMD"]), exec_form(image["ENTRYPOINT"])
    assert (program, command) == ("darl", "serve") and mounted[bundle]["readOnly"] is True
    for path in (image["VOLUME"], "/tmp"):  # nothing else can be written
        assert "readOnly" not in mounted[path]
    assert all(value.startswith(image["VOLUME"]) for name, value in pairs(image["ENV"]).items() if "STATES" in name)
    assert {mount["name"] for mount in mounted.values()} == {v["name"] for v in service["spec"]["predictor"]["volumes"]}


def test_variables_are_settings_of_the_service(container):
    known = {f"DARL_{name}".upper() for name in read_fields(ServerConfig)} | {
        name for declared in read_fields(ServerConfig).values() for name in (declared.field.env or ())
    }
    names = {variable["name"] for variable in container["env"]}
    assert names <= known, names - known
    for variable in container["env"]:
        assert ("valueFrom" in variable) == ("PASSWORD" in variable["name"] or "USER" in variable["name"])


def test_probes_are_answered_without_a_key(container, tiny):
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {8091}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/ready", "readiness": "/ready", "liveness": "/health",
    }  # fmt: skip
    with running(tiny, api_key="k") as client:
        assert {client.get(probe["path"]).status_code for probe in probes.values()} == {200}
        assert client.post("/v1/rerank", content=json.dumps({"query": "q", "documents": ["d"]})).status_code == 401
    with running(tiny, ready=False) as client:  # loading
        assert client.get(probes["liveness"]["path"]).status_code == 200
