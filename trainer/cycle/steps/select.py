"""Select queries to label, and sample the control arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.ood.store import OodStore
from darl_opensearch.text import ItemRenderer
from trainer.cycle.folder import NOTHING
from trainer.cycle.ports import Report, World
from trainer.cycle.samples import read_rows, render_catalogue
from trainer.cycle.steps.base import CONTROL_TASKS, SELECTED, Ending, StepResult
from trainer.dasa.config import SelectConfig
from trainer.dasa.items import Items
from trainer.dasa.labelled import LabelledQueries
from trainer.dasa.run import select


def select_samples(
    config: SelectConfig, serving: Bundle, open_log: Callable[[], AbstractContextManager[OodStore]], *,
    trained: Sequence[Path], held_out: Sequence[Path], items: Items, since: datetime | None,
    former_control: Sequence[Path], folder: Path, report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Select from the log.

    :param held_out: judgments, or bare queries, that must never be trained on.
    :param former_control: files of the previous cycle's control arm.
    :return: counts, and the selection's report.
    """
    labelled = LabelledQueries.read(
        trained, held_out, items.texts, most=config.known_queries, items_per_query=config.items_per_query,
        seed=config.seed,
    )  # fmt: skip
    with open_log() as log:
        selection = select(
            config, serving, log, labelled=labelled, out=(folder / SELECTED).parent, items=items, since=since,
            control=former_control, report=report,
        )  # fmt: skip
    return {
        "selected": len(read_rows(folder / SELECTED)),
        "control": sum(len(read_rows(folder / name)) for name in CONTROL_TASKS),
        "why_empty": selection.why_empty, "report": selection.to_json(),
    }  # fmt: skip


def end_without_samples(result: StepResult) -> Ending | None:
    """End the cycle if nothing was selected."""
    return None if result["selected"] else Ending(NOTHING, f"nothing was selected: {result['why_empty']}")


def open_items(catalogues: Sequence[Path], renderer: ItemRenderer, world: World) -> Items:
    """Open the catalogue: its files first, then the item index."""
    files = Items.of_texts(render_catalogue(catalogues, renderer))

    def look_up(ids: list[str]) -> Mapping[str, str]:
        texts = dict(files.texts(ids))
        missing = [item for item in ids if item not in texts]
        return texts | dict(world.item_texts(missing)) if missing else texts

    return Items(look_up, world.item_search or files.search)
