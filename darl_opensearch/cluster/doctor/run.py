"""All checks, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.doctor.certificates import check_certificates
from darl_opensearch.cluster.doctor.items import check_default_pipelines, check_texts
from darl_opensearch.cluster.doctor.logs import check_losses, check_stream, check_template
from darl_opensearch.cluster.doctor.models import check_model, check_scorer
from darl_opensearch.cluster.doctor.nodes import check_plugins, check_settings, check_version
from darl_opensearch.cluster.doctor.pipelines import check_batches, check_history, check_pipelines
from darl_opensearch.cluster.doctor.resources import check_breakers, check_clock, check_disk
from darl_opensearch.cluster.doctor.results import CheckResult, Diagnosis
from darl_opensearch.cluster.doctor.subject import DoctorOptions, Subject
from darl_opensearch.errors import ClusterError

Check = Callable[[Subject], Iterable[CheckResult]]

CHECKS: Mapping[str, Check] = {
    "version": check_version,
    "plugins": check_plugins,
    "settings": check_settings,
    "breakers": check_breakers,
    "disk": check_disk,
    "clock": check_clock,
    "certificates": check_certificates,
    "pipelines": check_pipelines,
    "batches": check_batches,
    "history": check_history,
    "model": check_model,
    "scorer": check_scorer,
    "default": check_default_pipelines,
    "texts": check_texts,
    "template": check_template,
    "data stream": check_stream,
    "lost records": check_losses,
}


def diagnose(
    cluster: Cluster, options: DoctorOptions | None = None, *, report: Callable[[str, int, int], object] | None = None
) -> Diagnosis:
    """Check a cluster and its scorer; nothing is written.

    :param report: called before each check with its name, checks done and checks in all.
    :return: one result or more for each check; a check that the cluster does not allow is "not checked".
    :raises ClusterError: if the cluster cannot be reached.
    """
    from opensearchpy.exceptions import ConnectionError as Unreached

    options = options or DoctorOptions()
    subject = Subject(cluster, options, cluster.identify())
    results: list[CheckResult] = []
    for number, (name, check) in enumerate(CHECKS.items()):
        if report is not None:
            report(name, number, len(CHECKS))
        try:
            found = list(check(subject))
        except ClusterError as err:
            if isinstance(err.__cause__, Unreached):
                raise
            found = [CheckResult("not checked", err.what, err.todo)]
        results += [dataclasses.replace(result, check=name) for result in found]
    return Diagnosis(cluster.url, subject.identity.number, tuple(results))
