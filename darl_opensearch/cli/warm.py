"""``darl warm``: item states, before the first search needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, progress
from darl_opensearch.cli.shared import JSON, THREADS, bundle_argument
from darl_opensearch.errors import DarlError
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.states.store import DISK_BYTES

CHUNK = 512  # items looked up and encoded at a time


@click.command()
@bundle_argument
@click.argument("items", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    bundle: Path,
    items: tuple[Path, ...],
    states: FolderPath = setting(..., "Folder of the item states, as for darl serve.", env="DARL_STATES"),
    states_bytes: int = setting(
        DISK_BYTES, "Maximum size of that folder; the oldest states go first.", least=2**20, env="DARL_STATES_BYTES"
    ),
    int8: bool = setting(False, "Encode with the quantised graph, for scorers that serve it.", env="DARL_INT8"),
    provider: Provider = setting("cpu", "Where the graph runs.", env="DARL_PROVIDER"),
    threads: int | None = THREADS,
    dry_run: bool = setting(False, "Count the items that are missing, encode none."),
    as_json: bool = JSON,
) -> None:
    """Encode ITEMS (JSONL) with BUNDLE and keep their states, so that the first search finds them.

    Items whose states are there are passed over: started again, an interrupted run goes on.
    """
    from darl_opensearch.bundle import Bundle
    from darl_opensearch.records.items import read_items
    from darl_opensearch.scoring import Scorer
    from darl_opensearch.states import StateStore

    opened = Bundle.open(bundle)
    if not opened.has_states(int8=int8):
        raise DarlError(
            "this bundle's items have no states of their own" + (" in int8" if int8 else ""), where=str(bundle),
            todo="states are for models of the split backbone: export the model again",
        )  # fmt: skip
    texts = list(dict.fromkeys(i.text for path in items for i in read_items(path, opened.renderer).values()))
    encoded = 0
    with (
        StateStore(states, disk_bytes=states_bytes, memory_bytes=0) as store,
        Scorer.open(
            opened, provider=provider, threads=threads, int8=int8, states=store, require_provider=True
        ) as scorer,
        progress() as bar,
    ):
        halves: Any = scorer.halves
        task = bar.add_task("encoding", total=len(texts))
        for start in range(0, len(texts), CHUNK):
            keys = {halves.keys.of(text): text for text in texts[start : start + CHUNK]}
            for key in store.contains(list(keys)):
                del keys[key]
            encoded += len(keys)
            if not dry_run:
                halves.fill(keys, wait=True)
            bar.update(task, completed=min(start + CHUNK, len(texts)))
        store.flush()
        counts = store.to_json()
    there = len(texts) - encoded
    result = {"items": len(texts), "there": there, "encoded": 0 if dry_run else encoded, "missing": encoded, **counts}
    if dry_run:
        emit(result, as_json=as_json, text=f"{there} of {len(texts)} items have states; {encoded} would be encoded")
        return
    text = f"{encoded} items encoded, {there} were there"
    text += f"; {counts['evicted']} older states had to go: raise --states-bytes" if counts["evicted"] else ""
    emit(result, as_json=as_json, text=text)
    if counts["not_kept"] or counts["errors"]:
        raise DarlError(
            f"{counts['not_kept']} states could not be kept",
            where=str(states),
            todo="free the disk, then run this again",
        )
