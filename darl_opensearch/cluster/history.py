"""The release history, kept in the cluster: one document per event, in an index with a strict mapping.

An event is written before the pipelines, with their bodies before and after, and closed once they are in place. So the
same command finishes a run that was killed in between; and since a document's id is the pipeline's name and the
event's number, two concurrent commands cannot both write it.
"""

from __future__ import annotations

import dataclasses
import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from darl_opensearch.cluster.calls import Cluster, join_path, status_of
from darl_opensearch.cluster.pipelines import list_models_in
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.version import __version__

INDEX = "darl-releases"
MOST = 1000  # events of a pipeline that are read; older ones stay in the index
TAKE_OVER_SECONDS = 60.0  # an unfinished event this old was left by a command that died: switching takes under one
CONFLICT = 409

Kind = Literal["release", "rollback", "refused"]
State = Literal["switching", "done", "abandoned"]
Bodies = Mapping[str, Mapping[str, Any]]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,200}")  # never a wildcard, a list, or a system name
_DESCRIPTION = re.compile(r"DaRL (\S+) (\S+) \((local|connector)\)")


@dataclass(frozen=True)
class Served:
    """A version of a bundle that serves or has served."""

    name: str
    version: str
    mode: Mode
    model_id: str

    @classmethod
    def of_pipeline(cls, body: Mapping[str, Any]) -> Served | None:
        """Read the served version from a pipeline written by darl; None if it does not say."""
        match, ids = _DESCRIPTION.match(str(body.get("description", ""))), list_models_in(body)
        if match is None or len(ids) != 1:
            return None
        return cls(match[1], match[2], match[3], ids.pop())  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """``name version``, for messages."""
        return f"{self.name} {self.version}"

    def is_called(self, words: str) -> bool:
        """Whether ``words``, a version or ``name:version``, means this version."""
        return words in (self.version, f"{self.name}:{self.version}")


@dataclass(frozen=True)
class Event:
    """A release, rollback or refusal.

    :param number: position in the pipeline's history, from 1.
    :param state: ``switching`` until the pipelines are in place.
    :param started: ISO 8601 time in UTC.
    :param came_from: the version that served before; None without a pipeline.
    :param before: bodies of the pipelines before, by name.
    :param after: bodies of the pipelines after, by name.
    :param finished: ISO 8601 time in UTC, once no longer switching.
    """

    pipeline: str
    number: int
    kind: Kind
    state: State
    started: str
    to: Served
    came_from: Served | None = None
    before: Bodies = field(default_factory=dict)
    after: Bodies = field(default_factory=dict)
    finished: str | None = None
    who: str = ""
    note: str = ""
    cycle: str = ""
    reason: str = ""
    gate: Mapping[str, Any] | None = None
    seq_no: int = -1
    primary_term: int = -1

    @property
    def age_seconds(self) -> float:
        """Seconds since it was started, by this machine's clock."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.started)).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Render for the index, without empty fields."""
        data = {
            "@timestamp": self.started, "finished": self.finished, "pipeline": self.pipeline, "number": self.number,
            "event": self.kind, "state": self.state, "from": self.came_from and vars(self.came_from),
            "to": vars(self.to), "who": self.who, "note": self.note, "cycle": self.cycle, "reason": self.reason,
            "darl": __version__, "gate": self.gate and dict(self.gate), "before": dict(self.before),
            "after": dict(self.after),
        }  # fmt: skip
        return {name: value for name, value in data.items() if value not in (None, "", {})}

    @classmethod
    def of_hit(cls, hit: Mapping[str, Any]) -> Event:
        """Read a document."""
        source = hit["_source"]
        return cls(
            pipeline=source["pipeline"], number=source["number"], kind=source["event"], state=source["state"],
            started=source["@timestamp"], to=Served(**source["to"]),
            came_from=Served(**source["from"]) if "from" in source else None, before=source.get("before", {}),
            after=source.get("after", {}), finished=source.get("finished"), who=source.get("who", ""),
            note=source.get("note", ""), cycle=source.get("cycle", ""), reason=source.get("reason", ""),
            gate=source.get("gate"), seq_no=int(hit.get("_seq_no", -1)), primary_term=int(hit.get("_primary_term", -1)),
        )  # fmt: skip


@dataclass(frozen=True)
class History:
    """The events of one pipeline."""

    cluster: Cluster
    pipeline: str
    index: str = INDEX

    def __post_init__(self) -> None:
        """Refuse a name that could match several indices."""
        if not _NAME.fullmatch(self.index):
            raise UsageError(f"invalid index name {self.index!r}", todo="use a-z, 0-9, '.', '_', '-'")

    def events(self) -> list[Event]:
        """Read the newest events, oldest first."""
        body = render_body("find_releases.json", size=MOST, pipeline=self.pipeline)
        answer = self.cluster.search(self.index, body, absent={})
        try:
            return [Event.of_hit(hit) for hit in reversed(answer.get("hits", {}).get("hits", []))]
        except (KeyError, TypeError) as err:
            raise ClusterError(
                f"index {self.index} holds a document that is not a release ({err})", where=self.cluster.url,
                todo="delete it, or choose another index with --history",
            ) from err  # fmt: skip

    def begin(self, last: int, kind: Kind, to: Served, **fields: Any) -> Event:
        """Write the next event.

        :param last: number of the newest event that was read, 0 without any.
        :param **fields: further fields of :class:`Event`.
        :raises ClusterError: if another command has written an event of this number.
        """
        self.ensure_index()
        event = Event(
            self.pipeline, last + 1, kind, fields.pop("state", "switching"), utc_now(), to,
            **({"who": this_user()} | {name: value for name, value in fields.items() if value is not None}),
        )  # fmt: skip
        place = join_path(self.index, "_create", f"{self.pipeline}:{event.number}") + "?refresh=true"
        return self._written(event, "PUT", place)

    def close(self, event: Event, state: State, **fields: Any) -> Event:
        """Record how an event ended.

        :param event: as it was read or written.
        :param **fields: fields of :class:`Event` that change with it.
        :raises ClusterError: if another command has changed it since.
        """
        changed = dataclasses.replace(event, state=state, finished=utc_now(), **fields)
        place = join_path(self.index, "_doc", f"{self.pipeline}:{event.number}")
        guard = f"?refresh=true&if_seq_no={event.seq_no}&if_primary_term={event.primary_term}"
        return self._written(changed, "PUT", place + guard)

    def ensure_index(self) -> None:
        """Create the index, unless it exists."""
        if self.cluster.read("GET", join_path(self.index), absent={}):
            return
        try:
            self.cluster.send("PUT", join_path(self.index), render_body("releases_index.json"))
        except ClusterError as err:
            if "resource_already_exists_exception" not in str(err.__cause__):
                raise  # else another command was faster

    def _written(self, event: Event, method: str, place: str) -> Event:
        try:
            answer = self.cluster.send(method, place, event.to_json(), pretend={"_seq_no": 0, "_primary_term": 1})
        except ClusterError as err:
            if status_of(err) != CONFLICT:
                raise
            raise ClusterError(
                f"another command is releasing to search pipeline {self.pipeline!r} at the same time",
                where=self.cluster.url, todo="check darl versions, then run this again if still needed",
            ) from err  # fmt: skip
        return dataclasses.replace(event, seq_no=int(answer["_seq_no"]), primary_term=int(answer["_primary_term"]))


def utc_now() -> str:
    """Return the current UTC time in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def this_user() -> str:
    """Return user and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "?"
    return f"{user}@{socket.gethostname()}"
