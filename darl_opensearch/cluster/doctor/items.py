"""Item indexes: whose searches go through a pipeline by default, and documents without text."""

from __future__ import annotations

from collections.abc import Iterator

from darl_opensearch.cluster.calls import Call, join_path
from darl_opensearch.cluster.default_pipelines import SETTING, describe_default_pipelines, find_default_pipelines
from darl_opensearch.cluster.doctor.pipelines import read_text_field
from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.without_text import count_documents_without_text, describe_documents_without_text


def check_default_pipelines(subject: Subject) -> Iterator[CheckResult]:
    """Check whether an index sends every search through a pipeline of darl."""
    if found := find_default_pipelines(subject.cluster):
        requests = tuple(Call("PUT", f"{join_path(index)}/_settings", {SETTING: "_none"}) for index in found)
        todo = "or, so that only searches that name the pipeline go through it, send:"
        yield CheckResult("warning", describe_default_pipelines(found), todo, requests)
    else:
        yield CheckResult("ok", "no index has a darl pipeline by default")


def check_texts(subject: Subject) -> Iterator[CheckResult]:
    """Count the documents without text in the item index."""
    index = subject.options.index
    if index is None:
        yield CheckResult("not checked", "the item index is not known", "pass --index")
        return
    field = read_text_field(subject.now.bodies.get(subject.options.pipeline, {}))
    if warning := describe_documents_without_text(count_documents_without_text(subject.cluster, index, field), field):
        yield CheckResult("warning", warning)
    else:
        yield CheckResult("ok", f"every document of {index} has {field}")
