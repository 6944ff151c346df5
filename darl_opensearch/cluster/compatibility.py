"""What differs between versions of OpenSearch: the one place that compares version numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from darl_opensearch.connect import Identity
from darl_opensearch.errors import ClusterError

Feature = Literal["connector", "local", "workbench", "workbench pipelines"]


@dataclass(frozen=True)
class Requirement:
    """Since when a feature works.

    :param since: major and minor number.
    :param what: the feature, in Markdown.
    :param because: why not before, as a clause in Markdown.
    """

    since: tuple[int, int]
    what: str
    because: str

    @property
    def number(self) -> str:
        """The version, such as ``3.0``."""
        return "{}.{}".format(*self.since)


REQUIRED: Mapping[Feature, Requirement] = {
    "connector": Requirement((2, 19), "`--mode connector`", "older versions were not tried"),
    "local": Requirement(
        (3, 0), "`--mode local`",
        "ML Commons 2 loads PyTorch 1.13.1 for an ONNX model too, and its libraries are not to be had offline",
    ),
    "workbench": Requirement(
        (3, 5), "`darl workbench`", "query sets, search configurations and judgments cannot be searched for"
    ),
    "workbench pipelines": Requirement(
        (3, 8), "`darl workbench push` with pipelines",
        "the Workbench wraps queries in base64, and `ml_inference` cannot read them",
    ),
}  # fmt: skip


def supports(version: tuple[int, int], feature: Feature) -> bool:
    """Whether a version of OpenSearch, by major and minor number, supports a feature."""
    return version >= REQUIRED[feature].since


def find_version_error(identity: Identity, mode: Literal["local", "connector"], url: str) -> ClusterError | None:
    """Return why a version of OpenSearch does not support a mode, or None.

    :param url: the cluster, for messages.
    """
    if supports(identity.version, mode):
        return None
    other = mode == "local" and supports(identity.version, "connector")
    return ClusterError(
        f"this is OpenSearch {identity.number}, but --mode {mode} requires {REQUIRED[mode].number}",
        where=url,
        todo="use --mode connector" if other else "upgrade it",
    )
