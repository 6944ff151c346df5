"""What a cycle needs of the world around it; the command line brings it.

The trainer knows neither clusters nor monitors. Tests bring worlds of their own.
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
        """Bring a bundle to where it can serve, and compare its answers there with its own; searches see nothing.

        :return: what was done, JSON-ready.
        :raises DarlError: when it does not answer, or answers otherwise.
        """

    def release(self, bundle: Bundle, *, cycle: str, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        """Let searches go to a registered bundle; done again it changes nothing.

        :param cycle: name of the cycle, for the history.
        :param gate: figures of the gate, for the history.
        :return: what was done, JSON-ready.
        :raises DarlError: when it cannot serve; the one before goes on serving.
        """


@dataclass(frozen=True)
class StartDecision:
    """Whether the log gives a reason to begin.

    :param reasons: why, or why not, one clause each.
    """

    begin: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Everything around a cycle.

    :param start: looks whether the log gives a reason to begin; it is given the serving bundle.
    :param item_texts: finds the texts of items that the log holds without, by id.
    :param item_search: ids of the items that the first stage finds for a query, best first, given how many; None: the
        catalogue's files are searched by BM25.
    :param tell: told of a release or a refusal: what happened, its figures, and an id that stays where the same is told
        again. It must not raise; False asks to be told again.
    :param report: told what is being done, steps done and steps in all.
    """

    store: Callable[[], AbstractContextManager[OodStore]]
    start: Callable[[Bundle], StartDecision]
    deployment: Deployment
    item_texts: Callable[[Sequence[str]], Mapping[str, str]]
    item_search: Callable[[str, int], Sequence[str]] | None = None
    tell: Callable[[str, Mapping[str, Any], str], bool] = lambda event, figures, delivery: True
    report: Report = lambda what, done, total: None
