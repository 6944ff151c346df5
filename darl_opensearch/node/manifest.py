"""What a node is made of: coordinates and digests, read from ``artifacts.json``."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from darl_opensearch.io.digest import digest_data

MANIFEST_PATH = Path(__file__).with_name("artifacts.json")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file to fetch with Maven.

    :param coordinates: ``group:artifact:version[:packaging[:classifier]]``.
    :param sha256: its digest; a file with another one is never used.
    """

    coordinates: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Natives:
    """Libraries that DJL would download when the first local model is deployed, ONNX models included.

    :param system: the operating system they are for, as ``platform.system()`` names it.
    :param machine: the processor they are for, as ``platform.machine()`` names it.
    :param folder: where DJL looks for them, below ``data/ml_cache``.
    :param members: name in an archive -> name in the folder.
    """

    system: str
    machine: str
    folder: str
    archives: tuple[Artifact, ...]
    members: dict[str, str]

    def fit_this_machine(self) -> bool:
        """Tell whether this machine can load them.

        :return: False on another system or processor, where DJL downloads its own.
        """
        return platform.system() == self.system and platform.machine() == self.machine


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole list.

    :param image: the official image of that version, for Docker.
    :param maven_goal: the goal that copies one artifact into a folder.
    :param distribution: the node without plugins.
    :param plugins: in the order in which they must be installed.
    :param digest: of the list itself; names the assembled folder, so that a changed list is assembled anew.
    """

    version: str
    image: str
    maven_goal: str
    distribution: Artifact
    plugins: tuple[Artifact, ...]
    natives: Natives
    digest: str

    def to_fetch(self) -> tuple[Artifact, ...]:
        """List what this machine needs.

        :return: distribution, plugins, and natives where they fit.
        """
        natives = self.natives.archives if self.natives.fit_this_machine() else ()
        return (self.distribution, *self.plugins, *natives)


@cache
def read_manifest(path: Path = MANIFEST_PATH) -> Manifest:
    """Read the list that ships with the package.

    :param path: another list, for tests.
    """
    raw = path.read_bytes()
    table: dict[str, Any] = json.loads(raw)
    natives = table["natives"] | {"archives": _artifacts(table["natives"]["archives"])}
    return Manifest(
        version=table["version"],
        image=table["image"],
        maven_goal=table["maven_goal"],
        distribution=Artifact(**table["distribution"]),
        plugins=_artifacts(table["plugins"]),
        natives=Natives(**natives),
        digest=digest_data(raw),
    )


def _artifacts(rows: list[dict[str, Any]]) -> tuple[Artifact, ...]:
    return tuple(Artifact(**row) for row in rows)
