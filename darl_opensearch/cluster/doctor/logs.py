"""The OOD log: its index template, its data stream, and records that were lost on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from darl_opensearch.cluster.calls import Call, join_path
from darl_opensearch.cluster.doctor.pipelines import find_differences
from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.errors import name_some
from darl_opensearch.io.http import HttpError
from darl_opensearch.ood.spool import Spool
from darl_opensearch.ood.stream import template

LOST = {
    "dropped_queue": "requests because the queue was full",
    "dropped_error": "requests because of errors",
    "evicted": "records because the spool was full",
}
BLOCK = "index.blocks.read_only_allow_delete"
COMPARED = ("index_patterns", "mappings", "data_stream", "version", "priority")

_EVENT = re.compile(r'^darl_ood_log_events_total\{event="(\w+)"\} (\S+)$', re.MULTILINE)


def check_template(subject: Subject) -> Iterator[CheckResult]:
    """Compare the index template with the one of this version of darl."""
    stream = subject.options.stream
    wanted = template(stream)
    place = join_path("_index_template", stream)
    found = subject.cluster.read("GET", place, absent={}).get("index_templates") or []
    if not found:
        if _resolve(subject).get("data_streams"):
            yield CheckResult(
                "problem",
                f"data stream {stream} has no index template {stream}",
                requests=(Call("PUT", place, wanted),),
            )
        else:
            yield CheckResult("ok", f"there is no data stream {stream} yet: darl ship creates it with its template")
        return
    actual = found[0].get("index_template", {})
    changed = list(find_differences(_compared(actual), _compared(wanted)))
    if not changed:
        yield CheckResult("ok", f"index template {stream} is as this version of darl writes it")
        return
    lacking = {field for field in _fields(wanted) if field not in _fields(actual)}
    effect = ": new backing indices will reject records with these fields" if lacking else ""
    # An operator's own shards, replicas or policies stay.
    whole = {**actual.get("template", {}), "mappings": wanted["template"]["mappings"]}
    merged = {**actual, **{name: wanted[name] for name in COMPARED if name in wanted}, "template": whole}
    yield CheckResult(
        "problem" if lacking else "warning",
        f"index template {stream} differs from what this version of darl writes, in {name_some(changed)}{effect}",
        requests=(Call("PUT", place, merged),),
    )


def check_stream(subject: Subject) -> Iterator[CheckResult]:
    """Check the data stream: its health, the mapping of its write index, and whether it can be written."""
    stream = subject.options.stream
    resolved = _resolve(subject)
    if resolved.get("indices") or resolved.get("aliases"):
        todo = "delete or rename it, or choose another name with --stream"
        yield CheckResult("problem", f"{stream} is an index or alias, but OOD records require a data stream", todo)
        return
    if not resolved.get("data_streams"):
        yield CheckResult("ok", f"there is no data stream {stream} yet: darl ship creates it")
        return
    sound = True
    [told] = subject.cluster.read("GET", join_path("_data_stream", stream))["data_streams"]
    status, write = str(told.get("status")), str(told["indices"][-1]["index_name"])
    if status not in ("GREEN", "YELLOW"):
        sound = False
        todo = "find the cause with GET /_cluster/allocation/explain"
        yield CheckResult("problem", f"data stream {stream} has status {status}", todo)
    blocks = subject.cluster.read("GET", f"{join_path(stream)}/_settings/index.blocks.*?flat_settings=true", absent={})
    blocked = [name for name, held in blocks.items() if str(held.get("settings", {}).get(BLOCK)).lower() == "true"]
    if blocked:
        sound = False
        yield CheckResult(
            "problem",
            f"{', '.join(sorted(blocked))} is read-only ({BLOCK}), as after a full disk: no record is written",
            "free disk space first",
            (Call("PUT", f"{join_path(stream)}/_settings", {BLOCK: None}),),
        )  # fmt: skip
    mapping = subject.cluster.read("GET", f"{join_path(write)}/_mapping").get(write, {}).get("mappings", {})
    ours = template(stream)["template"]["mappings"]
    kinds, wanted = _kinds(mapping), _kinds(ours)
    if lacking := sorted(wanted.keys() - kinds.keys()):
        sound = False
        yield CheckResult(
            "problem", f"{write} lacks the fields {name_some(lacking)}: records with them are rejected",
            requests=(Call("PUT", f"{join_path(stream)}/_mapping", ours),),
        )  # fmt: skip
    if differing := sorted(field for field, kind in wanted.items() if kinds.get(field, kind) != kind):
        sound = False
        yield CheckResult(
            "problem", f"fields of {write} have another type: {name_some(differing)}",
            "put the template if it differs, then roll the data stream over:",
            (Call("POST", join_path(stream, "_rollover")),),
        )  # fmt: skip
    if sound:
        yield CheckResult("ok", f"data stream {stream} has {len(told['indices']):,} backing indices, status {status}")


def check_losses(subject: Subject) -> Iterator[CheckResult]:
    """Read from the scorer's metrics and from a spool how many records were lost."""
    looked = False
    if subject.scorer_url is not None:
        looked = True
        yield _read_metrics(subject)
    if subject.options.spool is not None:
        looked = True
        with Spool.open(subject.options.spool) as spool:
            counters = spool.counters()
        where = f"spool {subject.options.spool}"
        yield judge_losses(where, counters)
        if dead := counters["stored_dead_letters"]:
            todo = "see why with darl ship --dead-letters, and send them again with --retry-dead-letters"
            yield CheckResult("warning", f"{where}: the cluster rejected {dead:,} records", todo)
    if not looked:
        yield CheckResult("not checked", "neither a scorer nor a spool is known", "pass --scorer-url or --spool")


def judge_losses(where: str, counters: Mapping[str, int]) -> CheckResult:
    """Judge the counters of an OOD log.

    :param where: for the text.
    """
    lost = [f"{counters[name]:,} {text}" for name, text in LOST.items() if counters.get(name)]
    if lost:
        todo = "raise --ood-queue or --ood-max-bytes of darl serve, or ship more often (darl ship --follow)"
        return CheckResult("warning", f"{where}: lost {', '.join(lost)}", todo)
    if counters.get("write_failures"):
        what = f"{where}: {counters['write_failures']:,} failed attempts to write"
        return CheckResult("warning", what, "check free space and permissions of the spool's disk")
    return CheckResult("ok", f"{where}: no record was lost")


def _read_metrics(subject: Subject) -> CheckResult:
    answer = subject.ask_scorer("/metrics")
    if isinstance(answer, HttpError):
        return CheckResult("not checked", f"this machine does not reach the scorer at {subject.scorer_url} ({answer})")
    if answer.status != 200:
        todo = "set DARL_API_KEY to its key" if answer.status in (401, 403) else "check --scorer-url"
        return CheckResult("not checked", f"the scorer answered /metrics with {answer.status}", todo)
    text = answer.body.decode("utf-8", "replace")
    counters = {name: int(float(value)) for name, value in _EVENT.findall(text)}
    if not counters:
        return CheckResult("not checked", "the scorer keeps no OOD log")
    return judge_losses("scorer, since it started", counters)


def _resolve(subject: Subject) -> dict[str, Any]:
    return subject.cluster.read("GET", join_path("_resolve", "index", subject.options.stream), absent={})


def _compared(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a template decides whether records are accepted; an operator may add settings of their own."""
    flat = {**body, "mappings": body.get("template", {}).get("mappings")}
    return {name: flat.get(name) for name in COMPARED}


def _fields(body: Mapping[str, Any]) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = body.get("template", {}).get("mappings", {}).get("properties", {})
    return fields


def _kinds(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about.get("type") for name, about in mapping.get("properties", {}).items()}
