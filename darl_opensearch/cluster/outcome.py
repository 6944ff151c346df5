"""What a release or a rollback came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.cluster.history import Served
from darl_opensearch.cluster.pipelines import Change
from darl_opensearch.cluster.probe import ProbeSearch


@dataclass(frozen=True)
class Release:
    """What was done, by a release or a rollback.

    :param event: ``release`` or ``rollback``.
    :param came_from: the one that served before; None where there was none.
    :param number: place in the pipeline's history; None where nothing was to be done.
    :param deviation: largest difference of the model's answers from the bundle's own; None where not compared.
    :param probe: the search through the new pipeline, if one was asked for.
    :param warning: what of the bundle a model in the cluster does not serve.
    """

    event: str
    pipeline: str
    served: Served
    came_from: Served | None
    number: int | None
    pipelines: Mapping[str, Change] = field(default_factory=dict)
    deviation: float | None = None
    probe: ProbeSearch | None = None
    undeployed: tuple[Served, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""

    @property
    def changed(self) -> bool:
        """Whether another version, or another pipeline, serves than before."""
        return self.number is not None

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json`` and for a webhook."""
        return {
            "event": self.event, "pipeline": self.pipeline, "changed": self.changed, "number": self.number,
            "served": vars(self.served), "from": self.came_from and vars(self.came_from),
            "pipelines": dict(self.pipelines), "deviation": self.deviation, "probe": self.probe and vars(self.probe),
            "undeployed": [vars(version) for version in self.undeployed], "settings": dict(self.settings),
            "warning": self.warning,
        }  # fmt: skip
