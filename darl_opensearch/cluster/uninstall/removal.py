"""What is taken away, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.cluster.history import Bodies
from darl_opensearch.cluster.models import FoundModel
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.settings import setting


class UninstallOptions(PipelineHistory):
    """Options of ``darl uninstall``."""

    bundle_names: tuple[str, ...] = setting(
        (),
        "also remove the models of bundles of this name, which no release and no pipeline names",
        flag="--bundle-name",
    )
    ood_log: bool = setting(False, "also delete the OOD data stream with all its records, and its index template",
                            flag="--ood-log")  # fmt: skip
    stream: str = setting(STREAM, "name of the OOD data stream", env="DARL_OOD_STREAM")


@dataclass(frozen=True)
class Kept:
    """Something that is left.

    :param what: kind and name.
    :param todo: how to remove it too, if that may be wanted.
    """

    what: str
    why: str
    todo: str | None = None

    def __str__(self) -> str:
        """One line."""
        return f"{self.what}: {self.why}" + (f" ({self.todo})" if self.todo else "")


@dataclass(frozen=True)
class Removal:
    """What is taken away, and what is left.

    :param pipelines: bodies by name, as they were found.
    :param connectors: ids of those that no model uses; a model's own goes with it.
    :param groups: names of model groups, by id.
    :param events: of the pipeline, in its history.
    :param history: the index that holds them; None: it is left, or there is none.
    :param stream: whether the OOD data stream is deleted.
    :param template: whether its index template is deleted.
    """

    options: UninstallOptions
    pipelines: Bodies = field(default_factory=dict)
    models: tuple[FoundModel, ...] = ()
    connectors: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    events: int = 0
    history: str | None = None
    stream: bool = False
    template: bool = False
    kept: tuple[Kept, ...] = ()

    def lines(self) -> list[str]:
        """List what is taken away, a line each."""
        log = self.options.stream
        return [
            *(f"search pipeline {name}" for name in self.pipelines),
            *(f"model {model.name} ({model.model_id})" + (" and its connector" if model.connector_id else "")
              for model in self.models),
            *(f"connector {connector}, which no model uses" for connector in self.connectors),
            *(f"model group {name} ({group})" for group, name in self.groups.items()),
            *([f"release history of pipeline {self.options.pipeline}: {self.events:,} events"] if self.events else []),
            *([f"index {self.history}, which holds no other pipeline's history"] if self.history else []),
            *([f"data stream {log} with all its records"] if self.stream else []),
            *([f"index template {log}"] if self.template else []),
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        found = [
            {"model_id": model.model_id, "name": model.name, "connector_id": model.connector_id}
            for model in self.models
        ]  # fmt: skip
        return {
            "pipeline": self.options.pipeline,
            "removed": {
                "pipelines": list(self.pipelines), "models": found, "connectors": list(self.connectors),
                "model_groups": dict(self.groups), "events": self.events, "history": self.history,
                "data_stream": self.options.stream if self.stream else None,
                "index_template": self.options.stream if self.template else None,
            },
            "left": [vars(one) for one in self.kept],
        }  # fmt: skip
