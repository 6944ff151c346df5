"""The artifacts of a node: coordinates and digests, from ``artifacts.json``."""

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
    :param sha256: a file with another digest is never used.
    """

    coordinates: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Natives:
    """Libraries that DJL would otherwise download when the first local model is deployed, even an ONNX model.

    :param system: their operating system, as ``platform.system()`` names it.
    :param machine: their processor, as ``platform.machine()`` names it.
    :param folder: where DJL looks for them, below ``data/ml_cache``.
    :param members: file names in the folder, by name in an archive.
    """

    system: str
    machine: str
    folder: str
    archives: tuple[Artifact, ...]
    members: dict[str, str]

    def fit_this_machine(self) -> bool:
        """Whether this machine can load them; on another system or processor DJL downloads its own."""
        return platform.system() == self.system and platform.machine() == self.machine


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of ``artifacts.json``.

    :param image: the official Docker image of that version.
    :param maven_goal: the goal that copies an artifact into a folder.
    :param distribution: the node without plugins.
    :param plugins: in the order of installation.
    :param digest: of the file itself; it names the assembled folder, so that a changed file is assembled anew.
    """

    version: str
    image: str
    maven_goal: str
    distribution: Artifact
    plugins: tuple[Artifact, ...]
    natives: Natives
    digest: str

    def to_fetch(self) -> tuple[Artifact, ...]:
        """List the artifacts that this machine needs: natives only if they fit it."""
        natives = self.natives.archives if self.natives.fit_this_machine() else ()
        return (self.distribution, *self.plugins, *natives)


@cache
def read_manifest(path: Path = MANIFEST_PATH) -> Manifest:
    """Read the manifest; by default the one in the package."""
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
