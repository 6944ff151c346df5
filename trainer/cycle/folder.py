"""Folders of cycles: one numbered folder each, with the results of its steps, and a pointer to the serving bundle.

Every write is atomic, and a step is done once its file exists, so a killed cycle resumes after its last complete step.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import InputError
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.io.writing import write_file

BEGUN, STEPS, OUTCOME, NOTIFIED = "cycle.json", "steps", "outcome.json", "told.json"
CURRENT, LOCK = "current.json", "lock"
RELEASED, REFUSED, NOTHING, ABANDONED = "released", "refused", "nothing", "abandoned"  # how a cycle ends


@dataclass(frozen=True)
class Cycle:
    """One cycle's folder.

    :param number: from 1 on.
    """

    path: Path
    number: int

    @property
    def name(self) -> str:
        """Name of the folder, and of the cycle in the release history."""
        return self.path.name

    @property
    def begun(self) -> dict[str, Any] | None:
        """Record of its start, or None before that is written."""
        begun = read_record(self.path / BEGUN, "from")
        if begun is not None:
            check_fields(begun["from"], self.path / BEGUN, "name", "version", "sha256", within="from")
        return begun

    @property
    def outcome(self) -> dict[str, Any] | None:
        """Record of its end, or None while it runs."""
        return read_record(self.path / OUTCOME, "outcome", todo="restore it, or remove it to let the cycle resume")

    def read_result(self, step: str) -> dict[str, Any] | None:
        """Read the result of a step, or None while it is not done."""
        return read_record(self._marker(step), "settings", todo="restore it, or remove it to repeat the step")

    def finish(self, step: str, result: Mapping[str, Any]) -> None:
        """Mark a step as done, once its files are on disk."""
        write_record(self._marker(step), result)

    def end(self, outcome: str, **more: Any) -> None:
        """Record how the cycle ended, with one delivery id for all attempts to notify a webhook.

        :param outcome: ``released``, ``refused``, ``nothing`` or ``abandoned``.
        """
        record = {"outcome": outcome, "time": format_now(), **more, "delivery": str(uuid.uuid4())}
        write_record(self.path / OUTCOME, record)

    @property
    def notified(self) -> bool:
        """Whether the webhook has been notified of the outcome."""
        outcome = self.outcome
        note = read_record(self.path / NOTIFIED, todo="remove it to send the notification again") or {}
        # Older versions wrote no delivery id: they notified at once.
        return outcome is not None and note.get("delivery") == outcome.get("delivery")

    def mark_notified(self) -> None:
        """Record the notification by its delivery id, because people may remove an outcome."""
        write_record(self.path / NOTIFIED, {"delivery": (self.outcome or {}).get("delivery"), "time": format_now()})

    def _marker(self, step: str) -> Path:
        return self.path / STEPS / f"{step}.json"


class Cycles:
    """All cycles of one model, in a folder that is made when the first begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Cycle]:
        """List the cycles that have begun, by number."""
        begun = (p for p in self.path.glob("[0-9]*") if p.name.isdecimal() and (p / BEGUN).is_file())
        return sorted((Cycle(p, int(p.name)) for p in begun), key=lambda cycle: cycle.number)

    def open_or_next(self) -> Cycle:
        """Return the unfinished cycle, or the next one, whose folder does not exist yet."""
        cycles = self.all()
        if cycles and cycles[-1].outcome is None:
            return cycles[-1]
        number = cycles[-1].number + 1 if cycles else 1
        return Cycle(self.path / f"{number:04d}", number)

    def serving(self, first: Path) -> Bundle:
        """Open the serving bundle.

        :param first: the bundle that serves before any cycle has released.
        :raises BundleError: if it is missing or damaged.
        """
        todo = "restore it: its 'bundle' is the folder of the serving bundle, such as 0001/bundle"
        current = read_record(self.path / CURRENT, "bundle", todo=todo)
        # A missing file means that nothing was released; a broken one must not fall back to the first bundle.
        return Bundle.open(first if current is None else self.path / str(current["bundle"]))

    def switch(self, cycle: Cycle | None, bundle: Path) -> None:
        """Point to the bundle that serves from now on.

        :param cycle: the cycle that made it, if any.
        """
        record = {"bundle": os.path.relpath(bundle, self.path), "cycle": cycle.number if cycle else 0}
        write_record(self.path / CURRENT, record | {"time": format_now()})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that keeps two cycles of one model from running at once.

        :raises DarlError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        todo = "wait for it, or stop that process"
        with hold_lock(self.path / LOCK, "another cycle is running", where=self.path, todo=todo):
            yield


def format_now() -> str:
    """Format the current time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(
    path: Path, *fields: str, todo: str = "restore it, or run darl cycle --abandon"
) -> dict[str, Any] | None:
    """Read a record written by :func:`write_record`, or None if the file does not exist.

    :param todo: advice if the file is invalid.
    :raises InputError: if it is not JSON, not an object, or lacks a field.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as err:
        raise InputError(f"not JSON ({err})", where=str(path), todo=todo) from err
    return check_fields(value, path, *fields, todo=todo)


def check_fields(
    value: Any, path: Path, *fields: str, within: str = "", todo: str = "restore it, or run darl cycle --abandon"
) -> dict[str, Any]:
    """Check that an object has its fields, because people edit files in these folders.

    :param within: name of the field that holds it; empty: it is the whole file.
    :param todo: advice if the object is invalid.
    :raises InputError: if it is not an object, or a field is missing.
    """
    if not isinstance(value, dict):
        raise InputError(
            f"field {within!r} is not an object" if within else "not a JSON object", where=str(path), todo=todo
        )
    for name in fields:
        if value.get(name) in (None, ""):
            field = f"{within}.{name}" if within else repr(name)
            raise InputError(f"field {field} is missing", where=str(path), todo=todo)
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object atomically, creating its folder.

    :param value: JSON-ready; paths become texts.
    """
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", fixed_name=True)
