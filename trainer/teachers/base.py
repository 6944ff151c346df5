"""What a teacher is, and which one a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import nearest
from trainer.registry import Registry


@dataclass(frozen=True)
class TeacherRequest:
    """A query whose items want scores.

    :param texts: their texts, as the student reads them.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class TeacherFiles:
    """Where a teacher finds what it needs.

    :param base: folder that the configuration's paths are relative to.
    """

    base: Path
    items: Path


class Teacher(Protocol):
    """Scores the items of a query. Any number of threads may ask it."""

    workers: int  # queries asked at the same time

    def identity(self) -> str:
        """Say what the scores depend on, so that those of another teacher are not taken for this one's."""

    def score(self, request: TeacherRequest) -> list[float | None]:
        """Score the items of one query.

        :return: ``n`` scores, higher is more relevant; None where the teacher has none.
        :raises DarlError: when it cannot.
        """

    def close(self) -> None:
        """Let go of what it holds."""


TEACHERS: Registry[Any] = Registry("teacher")


def find_teacher(spec: str, params: Mapping[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """Resolve ``[distill] teacher``.

    :param spec: ``file:scores.jsonl``, ``bundle:folder``, or a URL.
    :return: what makes the teacher from target, place and parameters; the target; and every parameter.
    :raises UsageError: for an unknown kind or parameter.
    """
    kind, colon, target = spec.partition(":")
    if kind in ("http", "https"):
        kind, target = "http", spec
    if not colon or not target:
        raise UsageError(
            f"[distill] teacher is {spec!r}", todo="write file:scores.jsonl, bundle:folder, or a URL with http"
        )
    if kind not in set(TEACHERS):
        raise UsageError(f"[distill] teacher has unknown kind {kind!r}", todo=nearest(kind, TEACHERS))
    make, values = TEACHERS.resolve(kind, params)
    return make, target, values
