"""The search pipelines: against the files that they are rendered from, and against the release history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from darl_opensearch.cluster.calls import Call, join_path
from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.history import TAKE_OVER_SECONDS, History, Served
from darl_opensearch.cluster.pipelines import PipelineShape, list_models_in, read_options, render_pipelines
from darl_opensearch.errors import ClusterError, name_some
from darl_opensearch.scores import Columns
from darl_opensearch.text import LONG_TEXT_FIELD, TEXT_FIELD

BATCHES = "batch_inference_config"
REGISTER = "write it with darl register or darl release"


@dataclass(frozen=True)
class InPlace:
    """What the pipelines in place say of their bundle."""

    name: str
    version: str
    columns: Columns
    text_field: str


def check_pipelines(subject: Subject) -> Iterator[CheckResult]:
    """Compare the pipelines with what this version of darl renders for the model and the options that they have."""
    name, bodies, served = subject.options.pipeline, subject.now.bodies, subject.now.served
    if name not in bodies:
        yield CheckResult("problem", f"search pipeline {name!r} does not exist", REGISTER)
        return
    if served is None:
        todo = "choose the right name with --pipeline, or write it with darl register under another name"
        yield CheckResult("problem", f"search pipeline {name!r} was not created by darl for one model", todo)
        return
    try:
        wanted = _render(subject, served)
    except ClusterError as err:
        yield CheckResult("problem", err.what, f"{REGISTER} again")
        return
    sound = True
    for pipeline, body in wanted.items():
        request = _put(pipeline, body)
        actual = bodies.get(pipeline)
        if actual is None:
            sound = False
            yield CheckResult("problem", f"search pipeline {pipeline!r} does not exist", requests=(request,))
        elif list_models_in(actual) != {served.model_id}:
            sound = False
            models = ", ".join(sorted(list_models_in(actual))) or "none"
            yield CheckResult(
                "problem", f"search pipeline {pipeline!r} uses model {models}, and {name!r} uses {served.model_id}",
                requests=(request,),
            )  # fmt: skip
        elif changed := list(find_differences(actual, body)):
            sound = False
            yield CheckResult(
                "warning",
                f"search pipeline {pipeline!r} differs from what this version of darl writes, in {name_some(changed)}",
                "unless the change is intended, send:",
                (request,),
            )
    if sound:
        yield CheckResult("ok", f"{' and '.join(wanted)} serve {served.label} ({served.mode}) as darl writes them")


def check_batches(subject: Subject) -> Iterator[CheckResult]:
    """Check that no pipeline splits the hits of a search into several calls, as OpenSearch 3.9 can.

    A scorer would log each call as a request of its own.
    """
    bodies = subject.now.bodies
    found = False
    for pipeline, body in bodies.items():
        if (whole := _without(body, BATCHES)) != body:
            found = True
            yield CheckResult(
                "problem",
                f"search pipeline {pipeline!r} has {BATCHES}: it splits the hits of a search into several calls, "
                "each of which is a request of its own in the OOD log",
                requests=(_put(pipeline, whole),),
            )
    if not bodies:
        yield CheckResult("not checked", f"search pipeline {subject.options.pipeline!r} does not exist")
    elif not found:
        yield CheckResult("ok", f"no pipeline has {BATCHES}: each search is one call")


def check_history(subject: Subject) -> Iterator[CheckResult]:
    """Check that the last release is finished, and that the pipelines are as it left them."""
    options, now = subject.options, subject.now
    events = History(subject.cluster, options.pipeline, options.history).events()
    if not events:
        yield CheckResult("ok", f"pipeline {options.pipeline!r} has no releases yet")
        return
    last = events[-1]
    if last.state == "switching":
        died = last.age_seconds >= TAKE_OVER_SECONDS
        what = (
            f"the {last.kind} of {last.to.label}, started by {last.who} {last.age_seconds:.0f} s ago, is not finished"
        )
        todo = f"run darl {last.kind} again" if died else "wait for it"
        yield CheckResult("problem" if died else "warning", what, todo)
        return
    done = [event for event in events if event.state == "done" and event.kind != "refused"]
    if not done:
        yield CheckResult("ok", f"pipeline {options.pipeline!r} has no completed release yet")
        return
    changed = [name for name, body in done[-1].after.items() if now.bodies.get(name) != body]
    if changed:
        requests = tuple(_put(name, done[-1].after[name]) for name in changed)
        what = f"{' and '.join(changed)} changed after {done[-1].kind} {done[-1].number} of {done[-1].to.label}"
        yield CheckResult("warning", what, "unless the change is intended, send:", requests)
    else:
        yield CheckResult("ok", f"the pipelines are as {done[-1].kind} {done[-1].number} left them")


def find_differences(actual: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Find the paths at which two JSON values differ."""
    if isinstance(actual, Mapping) and isinstance(wanted, Mapping):
        for key in sorted(actual.keys() | wanted.keys()):
            yield from find_differences(actual.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(actual, list) and isinstance(wanted, list) and len(actual) == len(wanted):
        for place, (one, other) in enumerate(zip(actual, wanted, strict=True)):
            yield from find_differences(one, other, f"{path}[{place}]")
    elif actual != wanted:
        yield path


def read_text_field(body: Mapping[str, Any]) -> str:
    """Read from the graded pipeline whether it scores whole items, in chunks, or only ``darl_text``."""
    steps = [step["ml_inference"] for step in body.get("response_processors", ()) if "ml_inference" in step]
    read = {entry.get("documents") for step in steps for entry in step.get("input_map", ())}
    return LONG_TEXT_FIELD if LONG_TEXT_FIELD in read else TEXT_FIELD


def _render(subject: Subject, served: Served) -> dict[str, dict[str, Any]]:
    name, bodies = subject.options.pipeline, subject.now.bodies
    shape = PipelineShape.of(name, bodies[name], where=subject.cluster.url)
    columns = Columns(len(shape.fields) - Columns(0).width)
    options = read_options(name, bodies, served.mode)
    there = InPlace(served.name, served.version, columns, read_text_field(bodies[name]))
    return render_pipelines(there, served.mode, served.model_id, options)


def _put(pipeline: str, body: Mapping[str, Any]) -> Call:
    return Call("PUT", join_path("_search", "pipeline", pipeline), body)


def _without(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return {name: _without(value, key) for name, value in node.items() if name != key}
    return [_without(part, key) for part in node] if isinstance(node, list) else node
