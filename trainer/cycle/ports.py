"""The interface between a cycle and its surroundings: the log, a deployment, an item index, a webhook.

The trainer imports neither clusters nor monitors; the command line provides them, and tests their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from darl_opensearch.bundle import Bundle
from darl_opensearch.ood.store import OodStore

Report = Callable[[str, int, int], object]


class Deployment(Protocol):
    """Where bundles serve."""

    def register(self, bundle: Bundle) -> Mapping[str, Any]:
        """Deploy a bundle without serving it, and compare its answers there with its own.

        :return: a report, JSON-ready.
        :raises DarlError: if it does not answer, or its answers differ.
        """

    def release(self, bundle: Bundle, *, cycle: str, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        """Switch searches to a registered bundle; repeating it changes nothing.

        :param cycle: name of the cycle, for the history.
        :param gate: the gate's report, for the history.
        :return: a report, JSON-ready.
        :raises DarlError: if it cannot serve; the previous version keeps serving.
        """


@dataclass(frozen=True)
class StartDecision:
    """Whether to start a cycle.

    :param reasons: why, or why not, one clause each.
    """

    begin: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """A cycle's surroundings.

    :param start: decides whether to start a cycle, given the serving bundle.
    :param item_texts: looks up texts by id, for items logged without one.
    :param item_search: ids of the top ``n`` first-stage hits for a query, best first; None: BM25 over the catalogue's
        files.
    :param tell: called on a release or a refusal with the event, its figures and a delivery id, which a repeated
        notification shares. It must not raise; False asks for a repetition.
    :param report: called with what is being done, steps done and steps in all.
    """

    store: Callable[[], AbstractContextManager[OodStore]]
    start: Callable[[Bundle], StartDecision]
    deployment: Deployment
    item_texts: Callable[[Sequence[str]], Mapping[str, str]]
    item_search: Callable[[str, int], Sequence[str]] | None = None
    tell: Callable[[str, Mapping[str, Any], str], bool] = lambda event, figures, delivery: True
    report: Report = lambda what, done, total: None
