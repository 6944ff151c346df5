"""Choose what to judge, and draw the control arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.cycle.samples import catalogue_texts, read_rows
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, Context
from trainer.dasa.items import Items
from trainer.dasa.known import Known
from trainer.dasa.run import select


def run(context: Context) -> Mapping[str, Any]:
    """Select from the log.

    :return: counts, and what became of everything else.
    """
    config = context.config.select
    items = catalogue(context)
    before = [cycle for cycle in context.former()][-1:]
    with context.world.store() as store:
        said = select(
            config, context.serving, store, known=known(context, items.texts), out=context.file("select"), items=items,
            since=context.config.log.begin(),
            control=[cycle.path / name for cycle in before for name in CONTROL_TASKS],
            report=context.world.report,
        )  # fmt: skip
    control = sum(len(read_rows(context.file(name))) for name in CONTROL_TASKS)
    return {
        "selected": len(read_rows(context.file(SELECTED))), "control": control, "why_empty": said.why_empty,
        "report": said.to_json(),
    }  # fmt: skip


def known(context: Context, texts: Callable[[list[str]], Mapping[str, str]]) -> Known:
    """Read what is judged already, or must never be trained on.

    :param texts: finds items' texts by id.
    :return: trained queries with items, and the texts of all that are not to be chosen.
    """
    data, first = context.training.data, context.training_path.parent
    trained = [first / name for name in (data.judgments, data.new) if name]
    held = [first / name for name in (data.dev, data.ood_dev, data.traffic) if name]
    held += [context.id_test, *(context.base / name for name in context.config.model.held_out)]
    trained += [cycle.path / JUDGMENTS for cycle in context.former()]
    config = context.config.select
    return Known.read(
        trained, held, texts, most=config.known_queries, items_per_query=config.items_per_query, seed=config.seed
    )


def catalogue(context: Context) -> Items:
    """Make the catalogue: files first, then the item index.

    :return: items by id, and a search.
    """
    files = Items.of_texts(catalogue_texts(context.catalogues, context.serving.renderer))
    world = context.world

    def look_up(ids: list[str]) -> Mapping[str, str]:
        found = dict(files.texts(ids))
        missing = [item for item in ids if item not in found]
        return found | dict(world.item_texts(missing)) if missing else found

    return Items(look_up, world.item_search or files.search)
