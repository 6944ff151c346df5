"""Where cycles are kept: one numbered folder each, what each step left, and which bundle serves.

Every write is whole or not there at all, and a step counts as done when its file is there: a cycle that was killed
goes on behind the last of them.
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

BEGUN, STEPS, OUTCOME, TOLD = "cycle.json", "steps", "outcome.json", "told.json"
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
        """The folder's name, which is the cycle's in the history of releases."""
        return self.path.name

    @property
    def begun(self) -> dict[str, Any] | None:
        """How it began, or None before that was written."""
        begun = read_record(self.path / BEGUN, "from")
        if begun is not None:
            check_fields(begun["from"], self.path / BEGUN, "name", "version", "sha256", within="from")
        return begun

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How it ended, or None while it has not."""
        return read_record(self.path / OUTCOME, "outcome", todo="restore it, or remove it to let the cycle resume")

    def done(self, step: str) -> dict[str, Any] | None:
        """What a step left.

        :return: its result, or None when it is not done.
        """
        return read_record(self._marker(step), "settings", todo="restore it, or remove it to repeat the step")

    def finish(self, step: str, result: Mapping[str, Any]) -> None:
        """Say that a step is done; what it made is on disk by now."""
        write_record(self._marker(step), result)

    def end(self, outcome: str, **more: Any) -> None:
        """Say how the cycle ended; the next one gets a folder of its own.

        An id of its delivery to a webhook is written as well, for every attempt to tell it.

        :param outcome: ``released``, ``refused``, ``nothing`` or ``abandoned``.
        """
        record = {"outcome": outcome, "time": time_now(), **more, "delivery": str(uuid.uuid4())}
        write_record(self.path / OUTCOME, record)

    @property
    def told(self) -> bool:
        """Whether nobody needs to be told any more how it ended."""
        ended, note = self.outcome, read_record(self.path / TOLD, todo="remove it to send the notification again") or {}
        # An outcome without a delivery is of a version that noted nothing, and told at once.
        return ended is not None and note.get("delivery") == ended.get("delivery")

    def note_told(self) -> None:
        """Say that it was told how the cycle ended: by its delivery, as an outcome may be taken away by hand."""
        write_record(self.path / TOLD, {"delivery": (self.outcome or {}).get("delivery"), "time": time_now()})

    def _marker(self, step: str) -> Path:
        return self.path / STEPS / f"{step}.json"


class Cycles:
    """All cycles of one model.

    :param path: their folder; made when the first begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Cycle]:
        """List the cycles that have begun.

        :return: by number.
        """
        begun = (p for p in self.path.glob("[0-9]*") if p.name.isdecimal() and (p / BEGUN).is_file())
        return sorted((Cycle(p, int(p.name)) for p in begun), key=lambda cycle: cycle.number)

    def open_or_next(self) -> Cycle:
        """Find the cycle that has not ended, or name the next.

        :return: the cycle; a new one's folder is not there yet.
        """
        cycles = self.all()
        if cycles and cycles[-1].outcome is None:
            return cycles[-1]
        number = cycles[-1].number + 1 if cycles else 1
        return Cycle(self.path / f"{number:04d}", number)

    def serving(self, first: Path) -> Bundle:
        """Open the bundle that serves.

        :param first: the one that serves before any cycle has released.
        :raises BundleError: when it is not there, or damaged.
        """
        todo = "restore it: its 'bundle' is the folder of the serving bundle, such as 0001/bundle"
        current = read_record(self.path / CURRENT, "bundle", todo=todo)
        # Without a file nothing was released; a broken one must not send us back to the first bundle.
        return Bundle.open(first if current is None else self.path / str(current["bundle"]))

    def switch(self, cycle: Cycle | None, bundle: Path) -> None:
        """Point to the bundle that serves from now on.

        :param cycle: the cycle that made it; None: none did.
        """
        relative = os.path.relpath(bundle, self.path)
        write_record(
            self.path / CURRENT, {"bundle": relative, "cycle": cycle.number if cycle else 0, "time": time_now()}
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock: two cycles of one model must not run at once.

        :raises DarlError: when another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        todo = "wait for it, or stop that process"
        with hold_lock(self.path / LOCK, "another cycle is running", where=self.path, todo=todo):
            yield


def time_now() -> str:
    """Say what time it is.

    :return: ISO 8601 in UTC.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(
    path: Path, *fields: str, todo: str = "restore it, or run darl cycle --abandon"
) -> dict[str, Any] | None:
    """Read what :func:`write_json` wrote.

    :param todo: what to do about a file that is none of ours.
    :return: the object, or None when there is none.
    :raises InputError: when it holds something else.
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
    """See that an object has its fields: files in these folders are read, and written, by people too.

    :param within: name of the field that it is the value of; empty: it is the whole file.
    :param todo: what to do about a file that is none of ours.
    :raises InputError: when it is none, or a field is missing.
    """
    if not isinstance(value, dict):
        raise InputError(
            f"field {within!r} is not an object" if within else "not a JSON object", where=str(path), todo=todo
        )
    for name in fields:
        if value.get(name) in (None, ""):
            what = f"field {f'{within}.{name}' if within else name!r} is missing"
            raise InputError(what, where=str(path), todo=todo)
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object into a temporary sibling, then rename it.

    :param path: where to; its folder is made.
    :param value: JSON-ready, or paths.
    """
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", fixed_name=True)
