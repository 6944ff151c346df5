"""The interface of teachers, their registry, and finding the configured one."""

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
    """A query with items to score.

    :param texts: of the items, rendered for the student.
    """

    query_id: str
    query: str
    item_ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class TeacherFiles:
    """Files that a teacher may read.

    :param base: folder that the configuration's paths are relative to.
    """

    base: Path
    items: Path


class Teacher(Protocol):
    """Scores the items of a query. Any number of threads may use it."""

    workers: int  # queries to score concurrently

    def identity(self) -> str:
        """Identify what the scores depend on, so that another teacher's scores are not reused."""

    def score(self, request: TeacherRequest) -> list[float | None]:
        """Score the items of one query.

        :return: ``n`` scores, higher is more relevant; None for unknown items.
        :raises DarlError: if scoring fails.
        """

    def close(self) -> None:
        """Release resources."""


TEACHERS: Registry[Any] = Registry("teacher")


def find_teacher(spec: str, params: Mapping[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """Resolve ``[distill] teacher``.

    :param spec: ``file:scores.jsonl``, ``bundle:folder``, or a URL.
    :return: the teacher's class, its target, and all parameters.
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
