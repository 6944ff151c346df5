"""Where a cycle's bundles serve: in a cluster, or only as a path in ``current.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.pipelines import PipelineOptions
from darl_opensearch.cluster.register import register
from darl_opensearch.cluster.release import ReleaseOptions, release

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class ClusterDeployment:
    """Deploys a cycle's bundles to a cluster.

    :param options: of the release; the cycle fills in gate and cycle.
    :param warm: called with the bundle before the switch; what it returns is part of the outcome.
    :param report: called with the step's name, steps done and steps in all.
    """

    cluster: Cluster
    options: ReleaseOptions
    warm: Callable[[Bundle], Mapping[str, Any]] | None = None
    report: Report = lambda what, done, total: None

    def register(self, bundle: Bundle) -> Mapping[str, Any]:
        """Register, deploy and compare without touching the pipelines; returns the JSON-ready outcome.

        :raises ClusterError: if the model does not answer, or answers differently from the bundle.
        """
        options = self.options.registration(PipelineOptions(name=self.options.pipeline))
        done = register(bundle, self.cluster, options, on_chunk=lambda n, of: self.report("uploading", n, of))
        return done.to_json()

    def release(self, bundle: Bundle, *, cycle: str, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        """Switch the pipelines to a registered bundle; returns the JSON-ready outcome.

        :raises DarlError: if it cannot serve; the previous version keeps serving.
        """
        options = dataclasses.replace(self.options, cycle=cycle, gate=gate)
        states = {"states": self.warm(bundle)} if self.warm is not None else {}
        return release(bundle, self.cluster, options, report=self.report).to_json() | states


@dataclass(frozen=True)
class NoCluster:
    """No cluster: scorers read the path of the serving bundle from ``current.json``."""

    def register(self, bundle: Bundle) -> Mapping[str, Any]:
        """Do nothing."""
        return {"cluster": None, "sha256": bundle.identity}

    def release(self, bundle: Bundle, *, cycle: str, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do nothing: the cycle itself points to the bundle."""
        return {"cluster": None, "sha256": bundle.identity, "cycle": cycle}
