"""What was selected, and what became of everything else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError

# What became of a query, in the order in which it is looked at.
MACHINE, JUDGED, NEAR_JUDGED, NEAR = "machine", "judged", "near_judged", "near"
CONTROL, NEAR_CONTROL, GIBBERISH, NOT_FLAGGED = "control", "near_control", "gibberish", "not_flagged"
FEW_ITEMS, NOISE = "few_items", "noise"
DROPPED = {
    MACHINE: "more requests a minute than people make, or requests like a clock's",
    JUDGED: "judged already: trained on, held out, or of an earlier cycle",
    NEAR_JUDGED: "nearly the words of one that is judged already",
    NEAR: "another query in nearly the same words; their traffic is added up",
    CONTROL: "drawn for the control arm",
    NEAR_CONTROL: "nearly the words of one in the control arm",
    GIBBERISH: "no letter or digit, a letter five times in a row, an address or code",
    NOT_FLAGGED: "too few of its items are out of distribution",
    FEW_ITEMS: "fewer than two items with a text",
    NOISE: "lies by itself, and was hardly searched",
}


@dataclass(frozen=True)
class SelectReport:
    """A selection.

    :param log: what was read: where, from and to when, requests, pairs, distinct queries.
    :param dropped: queries by what became of them, see :data:`DROPPED`.
    :param selected: ``queries`` and ``pairs`` chosen, and the ``pairs`` of each slice.
    :param control: ``queries`` and ``pairs`` to be judged for the control arm, queries ``drawn``, ``kept`` of the one
        before, ``unusable`` for want of items, and where the items come ``from``: search or log.
    :param digest: of everything that the selection depends on but the log.
    """

    log: Mapping[str, Any]
    dropped: Mapping[str, int]
    candidates: int
    selected: Mapping[str, Any]
    control: Mapping[str, Any]
    selector: Mapping[str, Any]
    digest: str
    dry_run: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing was selected."""
        return not self.selected["pairs"]

    @property
    def why_empty(self) -> str:
        """Why nothing was selected, in a clause; empty where something was."""
        if not self.empty or self.dry_run:
            return ""
        if not self.log["queries"]:
            return "the log holds no query of this time"
        if self.candidates:
            return f"the budget is less than the items of any of {self.candidates} queries cost"
        looked_at = sum(self.dropped[name] for name in (GIBBERISH, NOT_FLAGGED, FEW_ITEMS, NOISE))
        if self.control["drawn"] and not looked_at:
            return (
                f"the control arm, which is drawn first, took all {self.control['drawn']} queries that were new: "
                "ask for fewer control queries, or wait for more traffic"
            )
        return "nothing that was searched is strange and new"

    def to_json(self) -> dict[str, Any]:
        """Render for ``report.json`` and ``--json``."""
        return dataclasses.asdict(self) | {"empty": self.empty}

    @classmethod
    def read(cls, path: Path) -> SelectReport:
        """Read a ``report.json``.

        :raises InputError: when it is none.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise InputError(f"is no report of a selection ({err})", where=str(path), todo="select anew") from err
