"""What the page asks for: a search by all versions, why an item is where it is, and judgments."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.cluster.search_body import check_query
from darl_opensearch.errors import InputError
from darl_opensearch.records.values import as_whole
from darl_opensearch.text import ItemTemplate
from darl_opensearch.tryout.candidates import Candidate, Retriever
from darl_opensearch.tryout.marked import MarkedJudgments
from darl_opensearch.tryout.versions import TimedStage, TriedVersion

SEARCHES_KEPT = 32  # that a page may still ask about


@dataclass
class _Search:
    """A search that was shown.

    :param candidates: by key.
    :param levels: of similarity, by version, once asked for.
    """

    query: str
    candidates: Mapping[str, Candidate]
    levels: dict[int, list[float]] = field(default_factory=dict)


class TryOut:
    """Answers the page. One search runs at a time; threads wait for each other.

    :param versions: the compared ones, the first first.
    :param size: hits shown.
    :param window: candidates that are retrieved and ranked.
    :param marked: file of judgments; None: nothing can be marked.
    """

    def __init__(
        self, retriever: Retriever, versions: Sequence[TriedVersion], *, size: int, window: int,
        marked: MarkedJudgments | None = None,
    ) -> None:  # fmt: skip
        self.retriever, self.versions, self.marked = retriever, versions, marked
        self.size, self.window = size, window
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._searches: OrderedDict[int, _Search] = OrderedDict()

    def about(self) -> dict[str, Any]:
        """Describe what is tried out."""
        return {
            "first_stage": self.retriever.name,
            "size": self.size,
            "window": self.window,
            "versions": [_describe(version) for version in self.versions],
            "judgments": self.marked.path.name if self.marked else None,
        }

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Search.

        :param body: ``query``.
        :return: ``search``: a number for later questions; ``first`` and ``versions``: orders of items and the times of
            their stages; ``items`` by key.
        :raises InputError: for an unusable query.
        :raises ClusterError: if the cluster does not answer.
        """
        query = body.get("query")
        if not isinstance(query, str):
            raise InputError("the query is not text")
        check_query(query)
        with self._lock:
            started = time.perf_counter()
            candidates = self.retriever.retrieve(query, self.window)
            stage = TimedStage("first stage", 1000 * (time.perf_counter() - started), f"{len(candidates)} candidates")
            rankings = [version.rank(query, candidates, self.size) for version in self.versions]
            found = {candidate.key: candidate for candidate in candidates}
            found |= {row.candidate.key: row.candidate for ranking in rankings for row in ranking.rows}
            number = next(self._numbers)
            self._searches[number] = _Search(query, found)
            while len(self._searches) > SEARCHES_KEPT:
                self._searches.popitem(last=False)
        places = {candidate.key: place for place, candidate in enumerate(candidates, 1)}
        shown = [[row.to_json() for row in ranking.rows[: self.size]] for ranking in rankings]
        for row in itertools.chain.from_iterable(shown):
            row["was"] = places.get(row["item"])
        first = [{"item": c.key, "score": c.score and round(c.score, 3)} for c in candidates[: self.size]]
        keys = {row["item"] for row in (*first, *itertools.chain.from_iterable(shown))}
        return {
            "search": number,
            "query": query,
            "first": {"rows": first, "stages": [stage.to_json()]},
            "versions": [
                {"rows": rows, "stages": [stage.to_json() for stage in ranking.stages], "problem": ranking.problem,
                 "places": {r.candidate.key: n for n, r in enumerate(ranking.rows, 1) if r.candidate.key in keys}}
                for rows, ranking in zip(shown, rankings, strict=True)
            ],
            "items": {key: self._show(found[key]) for key in keys},
            "judged": self._judged(query),
        }  # fmt: skip

    def why(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Compare the tokens of a query and an item.

        :param body: ``search``, ``item`` and ``version``, its place.
        :return: ``text`` as the version reads it, or ``pieces`` and ``tokens`` with ``levels``; ``problem``: why not.
        """
        search, candidate = self._look_up(body)
        place = as_whole(body.get("version"))
        if place is None or not 0 <= place < len(self.versions):
            raise InputError("there is no such version", todo="reload the page")
        version, text = self.versions[place], candidate.texts[place]
        if text is None:
            return {"text": "", "problem": "This bundle cannot render the item."}
        if version.tokens is None:
            return {"text": text, "problem": version.why_not}
        with self._lock:
            if place not in search.levels:
                texts = [t for c in search.candidates.values() if (t := c.texts[place]) is not None]
                search.levels[place] = version.tokens.levels(search.query, texts)
            return version.tokens.compare(search.query, text) | {"levels": search.levels[place]}

    def judge(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the right grade of a pair.

        :param body: ``search``, ``item`` and ``grade``; None: take back what was marked.
        :return: the query's grades.
        :raises InputError: if nothing can be marked.
        """
        if self.marked is None:
            raise InputError("there is no file for judgments", todo="start darl try with --judgments FILE")
        search, candidate = self._look_up(body)
        grade = body.get("grade")
        if grade is None:
            self.marked.take_back(search.query, candidate.item_id)
        elif isinstance(grade, int) and not isinstance(grade, bool):
            self.marked.mark(search.query, candidate.item_id, grade)
        else:
            raise InputError("the grade is not a whole number", todo="reload the page")
        return {"judged": self._judged(search.query)}

    def _judged(self, query: str) -> dict[str, Any]:
        """Return grades by item id, and which of them were marked here."""
        if self.marked is None:
            return {"grades": {}, "here": []}
        return {"grades": self.marked.grades(query), "here": self.marked.marked_here(query)}

    def _look_up(self, body: Mapping[str, Any]) -> tuple[_Search, Candidate]:
        number, key = as_whole(body.get("search")), body.get("item")
        search = self._searches.get(number) if number is not None else None
        if search is None:
            raise InputError("this search is no longer in memory", todo="search again")
        if not isinstance(key, str) or key not in search.candidates:
            raise InputError("the search did not find this item", todo="search again")
        return search, search.candidates[key]

    def _show(self, candidate: Candidate) -> dict[str, str]:
        text = next((text for text in candidate.texts if text is not None), "")
        title, rest = split_title(text, self.versions[0].bundle.card.template)
        return {"id": candidate.item_id, "title": title or candidate.item_id, "rest": rest}


def split_title(text: str, template: ItemTemplate) -> tuple[str, str]:
    """Split a rendered item at its first field, which names most items."""
    if not template.separator.strip():
        return text, ""
    title, _, rest = text.partition(template.separator)
    return title, rest


def _describe(version: TriedVersion) -> dict[str, Any]:
    card = version.bundle.card
    return {
        "label": version.label, "grades": list(card.scale.names), "alpha": card.ood.alpha, "backbone": card.backbone,
        "created": card.created[:10], "why_not": version.why_not,
    }  # fmt: skip
