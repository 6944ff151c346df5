"""The model: is it loaded, does it answer, and does the cluster reach its scorer?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from darl_opensearch.cluster import models
from darl_opensearch.cluster.calls import Call, join_path
from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.history import Served
from darl_opensearch.cluster.preflight import ML
from darl_opensearch.cluster.probe import ProbeFailed, check_answers
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError
from darl_opensearch.io.http import HttpError

AUTO_DEPLOY = ML + "model_auto_deploy.enable"


def check_model(subject: Subject) -> Iterator[CheckResult]:
    """Check on which nodes the served model is loaded, and, for one in the cluster, that it answers."""
    served, model = subject.now.served, subject.model
    if served is None:
        yield _no_pipeline(subject)
        return
    about = f"model {served.model_id} of {served.label}"
    if not model:
        todo = "release its bundle again with darl release, or return to another version with darl rollback --to"
        yield CheckResult("problem", f"{about} was deleted: searches keep their first-stage order", todo)
        return
    state = str(model.get("model_state"))
    loaded = find_loading_nodes(subject, served.model_id)
    planned = {str(node) for node in model.get("planning_worker_nodes") or ()}
    request = (Call("POST", join_path("_plugins", "_ml", "models", served.model_id, "_deploy")),)
    names = ", ".join(sorted(map(subject.name_of, loaded)))
    if not loaded:
        on_demand = str(subject.settings.get(AUTO_DEPLOY, False)).lower() == "true" and served.mode == "connector"
        effect = "the next search loads it" if on_demand else "searches keep their first-stage order"
        verdict: Any = "warning" if on_demand else "problem"
        wait = "a node that has just started may still be loading it; if not, send:" if state == "DEPLOYING" else None
        yield CheckResult(verdict, f"{about} is loaded on no node (state {state}): {effect}", wait, request)
        return
    if missing := planned - loaded:
        lacking = ", ".join(sorted(map(subject.name_of, missing)))
        yield CheckResult("warning", f"{about} is loaded on {names}, but not on {lacking}", requests=request)
    elif state != "DEPLOYED":
        yield CheckResult("warning", f"{about} is loaded on {names}, but its state is {state}", requests=request)
    else:
        yield CheckResult("ok", f"{about} is loaded on {names}")
    if served.mode == "local":
        yield _ask_local(subject, served, request)


def check_scorer(subject: Subject) -> Iterator[CheckResult]:
    """Check that the cluster reaches the scorer through the connector, and that it serves the right version.

    A prediction without documents is sent, which ``darl serve`` does not log.
    """
    served = subject.now.served
    if served is None:
        yield _no_pipeline(subject)
        return
    if served.mode == "local":
        yield CheckResult("not checked", "the model runs in the cluster, without a scorer")
        return
    url = subject.connector_url
    if url is None:
        todo = "register the bundle again with darl register --replace"
        yield CheckResult("problem", f"the connector of {served.label} was deleted", todo)
        return
    here, told = _ask_from_here(subject)
    if not find_loading_nodes(subject, served.model_id):  # asking would load it, and this changes nothing
        yield CheckResult("not checked", f"whether the cluster reaches {url}: the model is loaded on no node")
    elif (error := _ask_through_connector(subject, served)) is None:
        yield CheckResult("ok", f"the cluster reaches the scorer at {url}")
    else:
        yield CheckResult(
            "problem", f"the cluster does not reach the scorer at {url} ({error}); {here}", _why(error, told)
        )
    if told is None:
        todo = "pass --scorer-url as this machine reaches it, and DARL_API_KEY"
        yield CheckResult("not checked", f"whether it serves {served.label}: {here}", todo)
    elif (told.get("name"), told.get("version")) != (served.name, served.version):
        yield CheckResult(
            "problem",
            f"the scorer serves {told.get('name')} {told.get('version')}, but the pipeline is for {served.label}",
            f"start darl serve with the bundle of {served.label}, or release the other with darl release",
        )
    else:
        yield CheckResult("ok", f"the scorer serves {served.label}, as the pipeline does")


def find_loading_nodes(subject: Subject, model_id: str) -> set[str]:
    """List the ids of the nodes that have a model in memory."""
    profiles = models.read_profiles(subject.cluster, model_id)
    return {node for node, model in profiles.items() if model.get("model_state") == "DEPLOYED"}


def _no_pipeline(subject: Subject) -> CheckResult:
    return CheckResult("not checked", f"no pipeline {subject.options.pipeline!r} says which model serves")


def _ask_local(subject: Subject, served: Served, request: tuple[Call, ...]) -> CheckResult:
    name = subject.options.pipeline
    body = subject.now.bodies[name]
    try:
        check_answers(subject.cluster, served.mode, served.model_id, body, name=name, ready_within=0.0)
    except ProbeFailed as err:
        return CheckResult("problem", f"the model does not answer: {err.what}", "deploy it again", request)
    except ClusterError as err:  # the pipeline does not say what it should return
        return CheckResult("not checked", f"its answer: {err.what}", err.todo)
    return CheckResult("ok", "it answers with the grades that the pipeline reads")


def _ask_through_connector(subject: Subject, served: Served) -> str | None:
    """Ask the scorer by way of the cluster; return what went wrong, or None."""
    body = render_body("predict_connector.json", query="darl doctor", documents=[])
    place = join_path("_plugins", "_ml", "models", served.model_id, "_predict")
    try:
        subject.cluster.read("POST", place, body)
    except ClusterError as err:
        return err.what
    return None


def _ask_from_here(subject: Subject) -> tuple[str, dict[str, Any] | None]:
    """Ask the scorer from this machine: a clause about it, and what it tells of itself."""
    answer = subject.ask_scorer("/info")
    url = subject.scorer_url
    if isinstance(answer, HttpError):
        return f"this machine does not reach it at {url} either ({answer})", None
    if answer.status in (401, 403):
        return "this machine reaches it, but it does not accept DARL_API_KEY", None
    try:
        told = json.loads(answer.body)
    except ValueError:
        told = None
    if answer.status != 200 or not isinstance(told, dict):
        return (
            f"this machine gets an answer of status {answer.status} from {url}, which is not that of darl serve",
            None,
        )
    return "this machine reaches it", told


def _why(error: str, told: dict[str, Any] | None) -> str:
    if any(word in error.lower() for word in ("401", "403", "api key")):
        return (
            "set DARL_API_KEY to the scorer's key, and run the darl register of this version again, without --replace"
        )
    if told is None:
        return "start darl serve where the nodes reach it"
    return "let darl serve listen on an address that the nodes reach (--host), and check firewalls and name resolution"
