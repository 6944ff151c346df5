"""Item lists of queries: logged items, completed by a search where there are too few."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from darl_opensearch.scores import Scores
from trainer.dasa.items import Items
from trainer.dasa.mix import Listed
from trainer.dasa.work import GatheredLog

Score = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[Scores]]


@dataclasses.dataclass(frozen=True)
class Lister:
    """Makes lists of scored items.

    :param score: scores pairs that the bundle did not score in the log.
    :param least: minimum logged items; with fewer, a search completes the list.
    """

    work: GatheredLog
    items: Items
    score: Score
    depth: int
    least: int

    def __call__(self, numbers: Sequence[int], *, search: bool = False) -> list[list[Listed]]:
        """List the scored items of queries, at most ``depth`` each; items without a text are left out.

        :param search: put current search hits first, if there is a search, because the log holds every OOD item but
            few of the others; logged items are added where there are too few hits.
        """
        texts = [self.work.text(number) for number in numbers]
        logged = [self.work.listed(number, self.depth) for number in numbers]
        lists: list[list[Listed]] = []
        for text, listed in zip(texts, logged, strict=True):
            if self.items.search and (search or len(listed) < self.least):
                item_ids = list(dict.fromkeys(self.items.search(text, self.depth)))
                logged_items = {item.item_id: item for item in listed}
                if not search:
                    item_ids = list(dict.fromkeys([*logged_items, *item_ids]))
                elif len(item_ids) < self.least:
                    item_ids = list(dict.fromkeys([*item_ids, *logged_items]))
                listed = [logged_items.get(item, Listed(item, "")) for item in item_ids[: self.depth]]
            lists.append(listed)
        return self._scored(texts, self._with_texts(lists))

    def _with_texts(self, lists: list[list[Listed]]) -> list[list[Listed]]:
        ids = list(dict.fromkeys(item.item_id for listed in lists for item in listed))
        texts = self.items.texts(ids) if ids else {}
        # The catalogue's text takes precedence: training will read it.
        filled = (
            [dataclasses.replace(item, text=texts.get(item.item_id) or item.text) for item in listed]
            for listed in lists
        )
        return [[item for item in listed if item.text] for listed in filled]

    def _scored(self, texts: list[str], lists: list[list[Listed]]) -> list[list[Listed]]:
        missing = [[item for item in listed if item.score is None] for listed in lists]
        unscored = [place for place, items in enumerate(missing) if items]
        if not unscored:
            return lists
        answers = self.score([(texts[place], [item.text for item in missing[place]]) for place in unscored])
        for place, scores in zip(unscored, answers, strict=True):
            fresh = {item.item_id: _with(item, scores, row) for row, item in enumerate(missing[place])}
            lists[place] = [fresh.get(item.item_id, item) for item in lists[place]]
        return lists


def _with(item: Listed, scores: Scores, row: int) -> Listed:
    return dataclasses.replace(
        item,
        score=round(float(scores.score[row]), 6),
        grade_probs=tuple(round(float(p), 6) for p in scores.grade_probs[row]),
        ood_score=round(float(scores.ood_score[row]), 6),
        ood_distance=round(float(scores.ood_distance[row]), 6),
        is_ood=bool(scores.is_ood[row]),
    )
