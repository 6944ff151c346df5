"""What became of the items that were to be encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from darl_opensearch.errors import DarlError
from darl_opensearch.states import StateStore

OnItem = Callable[[int, int], object]


@dataclass(frozen=True)
class WarmReport:
    """What became of the items.

    :param items: distinct texts; each chunk of a long item is one.
    :param missing: those without a state; encoded now, except in a dry run.
    :param encoded: states made now.
    :param store: the store's counters.
    :param without_text: items passed over because they have no text.
    :param would_evict: of a dry run, about how many older states would have to go.
    """

    items: int
    missing: int
    encoded: int
    store: dict[str, int]
    without_text: int = 0
    would_evict: int = 0

    def to_json(self) -> dict[str, int]:
        """Render as JSON."""
        return {
            "items": self.items, "there": self.items - self.missing, "encoded": self.encoded, "missing": self.missing,
            "without_text": self.without_text, "would_evict": self.would_evict, **self.store,
        }  # fmt: skip

    def describe(self) -> str:
        """Describe in one line."""
        there = self.items - self.missing
        blank = f"; {self.without_text} without text passed over" if self.without_text else ""
        if self.encoded < self.missing:
            gone = f"; about {self.would_evict} older states would have to go: raise --states-bytes"
            text = f"{there} of {self.items} items have states; {self.missing} would be encoded{blank}"
            return text + (gone if self.would_evict else "")
        text, evicted = f"{self.encoded} items encoded, {there} were there{blank}", self.store["evicted"]
        return text + (f"; {evicted} older states had to go: raise --states-bytes" if evicted else "")

    def check(self, folder: Path | None) -> None:
        """Fail unless all states were kept.

        :raises DarlError: naming the folder.
        """
        if self.store["not_kept"] or self.store["errors"]:
            raise DarlError(
                f"{self.store['not_kept']} states could not be kept", where=str(folder),
                todo="free the disk, then run this again",
            )  # fmt: skip


@dataclass
class WarmCount:
    """Counts items on their way to the store.

    :param total: how many texts there are, about.
    :param on_item: called with the texts read so far and all texts.
    """

    total: int
    on_item: OnItem | None
    read: int = 0
    distinct: int = 0
    missing: int = 0
    without_text: int = 0

    def add(self, read: int, distinct: int, missing: int, without_text: int) -> None:
        """Count the items of a chunk."""
        self.without_text += without_text
        self.read += read
        self.distinct += distinct
        self.missing += missing
        if self.on_item is not None:
            self.on_item(self.read, max(self.read, self.total))

    def report(self, store: StateStore, *, dry_run: bool = False) -> WarmReport:
        """Report once the store has written everything."""
        store.flush()
        encoded = 0 if dry_run else self.missing
        room = store.room() if dry_run else None
        too_many = 0 if room is None else max(0, self.missing - room)
        return WarmReport(self.distinct, self.missing, encoded, store.to_json(), self.without_text, too_many)
