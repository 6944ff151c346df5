"""The report of a selection: what was selected, and why other queries were dropped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError

# Why a query was not selected, in the order of the checks.
MACHINE, JUDGED, NEAR_JUDGED, NEAR = "machine", "judged", "near_judged", "near"
CONTROL, NEAR_CONTROL, GIBBERISH, NOT_FLAGGED = "control", "near_control", "gibberish", "not_flagged"
FEW_ITEMS, NOISE = "few_items", "noise"
DROPPED = {
    MACHINE: "automated: too many requests per minute, or evenly spaced ones",
    JUDGED: "already labelled: in training or held-out data, or in an earlier cycle",
    NEAR_JUDGED: "near-duplicate of a labelled query",
    NEAR: "near-duplicate of another query; their traffic is added up",
    CONTROL: "sampled for the control arm",
    NEAR_CONTROL: "near-duplicate of a control-arm query",
    GIBBERISH: "no letter or digit, a letter five times in a row, a URL or code",
    NOT_FLAGGED: "too few of its items are out of distribution",
    FEW_ITEMS: "fewer than two items with a text",
    NOISE: "isolated and rarely searched",
}


@dataclass(frozen=True)
class SelectReport:
    """A selection.

    :param log: the log that was read: its address, period, requests, pairs and distinct queries.
    :param dropped: number of dropped queries by reason, see :data:`DROPPED`.
    :param selected: ``queries`` and ``pairs`` chosen, and the ``pairs`` of each slice.
    :param control: ``queries`` and ``pairs`` to label for the control arm; queries ``drawn``, ``kept`` from the
        previous arm and ``unusable`` for lack of items; and the items' source, ``from``: search or log.
    :param digest: digest of all inputs except the log.
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
        """Why nothing was selected, as a clause; empty if something was."""
        if not self.empty or self.dry_run:
            return ""
        if not self.log["queries"]:
            return "the log holds no queries from this period"
        if self.candidates:
            return f"the budget is too small for the items of any of the {self.candidates} candidate queries"
        examined = sum(self.dropped[name] for name in (GIBBERISH, NOT_FLAGGED, FEW_ITEMS, NOISE))
        if self.control["drawn"] and not examined:
            return (
                f"the control arm, which is sampled first, took all {self.control['drawn']} new queries: "
                "ask for fewer control queries, or wait for more traffic"
            )
        return "no new query is out of distribution"

    def to_json(self) -> dict[str, Any]:
        """Render for ``report.json`` and ``--json``."""
        return dataclasses.asdict(self) | {"empty": self.empty}

    @classmethod
    def read(cls, path: Path) -> SelectReport:
        """Read a ``report.json``.

        :raises InputError: if it is not the report of a selection.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise InputError(
                f"not a report of a selection ({err})", where=str(path), todo="run the selection again"
            ) from err
