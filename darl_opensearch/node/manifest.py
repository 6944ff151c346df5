"""The artifacts of a node of each version: coordinates and digests, from ``artifacts-VERSION.json``."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from darl_opensearch.io.digest import digest_data

NodeVersion = Literal["3.6.0", "2.19.1"]
VERSIONS: tuple[NodeVersion, ...] = get_args(NodeVersion)
DEFAULT_VERSION: NodeVersion = "3.6.0"


def manifest_path(version: str = DEFAULT_VERSION) -> Path:
    """Path of a version's manifest, in the package."""
    return Path(__file__).with_name(f"artifacts-{version}.json")


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
class Module:
    """A module that the distribution on Maven Central lacks, made of its jars.

    :param classname: its plugin class.
    :param extends: modules whose classes it uses.
    :param runtime_permissions: that the security manager grants it.
    """

    name: str
    description: str
    classname: str
    extends: tuple[str, ...]
    runtime_permissions: tuple[str, ...]
    jars: tuple[Artifact, ...]


@dataclass(frozen=True, kw_only=True)
class JavaVersions:
    """Major versions of Java that a node runs on.

    :param newest: None: none is known to be too new.
    """

    oldest: int
    newest: int | None

    def __contains__(self, major: int) -> bool:
        return self.oldest <= major <= (self.newest or major)

    def __str__(self) -> str:
        return f"{self.oldest} or later" if self.newest is None else f"{self.oldest} to {self.newest}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of ``artifacts-VERSION.json``.

    :param image: the official Docker image of that version.
    :param maven_goal: the goal that copies an artifact into a folder.
    :param distribution: the node without plugins.
    :param plugins: in the order of installation.
    :param natives: None: a model in the cluster is not possible without downloads by DJL.
    :param digest: of the file itself; it names the assembled folder, so that a changed file is assembled anew.
    """

    version: str
    image: str
    java: JavaVersions
    maven_goal: str
    distribution: Artifact
    plugins: tuple[Artifact, ...]
    modules: tuple[Module, ...]
    natives: Natives | None
    digest: str

    @property
    def fitting_natives(self) -> Natives | None:
        """The natives, if there are any and this machine can load them."""
        return self.natives if self.natives is not None and self.natives.fit_this_machine() else None

    def to_fetch(self) -> tuple[Artifact, ...]:
        """List the artifacts that this machine needs: natives only if they fit it."""
        natives = self.fitting_natives.archives if self.fitting_natives else ()
        jars = (jar for module in self.modules for jar in module.jars)
        return (self.distribution, *self.plugins, *jars, *natives)


@cache
def read_manifest(path: Path) -> Manifest:
    """Read a manifest; those in the package are at :func:`manifest_path`."""
    raw = path.read_bytes()
    table: dict[str, Any] = json.loads(raw)
    natives = table["natives"]
    return Manifest(
        version=table["version"],
        image=table["image"],
        java=JavaVersions(**table["java"]),
        maven_goal=table["maven_goal"],
        distribution=Artifact(**table["distribution"]),
        plugins=_artifacts(table["plugins"]),
        modules=tuple(_module(row) for row in table["modules"]),
        natives=Natives(**natives | {"archives": _artifacts(natives["archives"])}) if natives else None,
        digest=digest_data(raw),
    )


def _module(row: dict[str, Any]) -> Module:
    lists = {key: tuple(row[key]) for key in ("extends", "runtime_permissions")}
    return Module(**row | lists | {"jars": _artifacts(row["jars"])})


def _artifacts(rows: list[dict[str, Any]]) -> tuple[Artifact, ...]:
    return tuple(Artifact(**row) for row in rows)
