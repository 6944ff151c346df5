"""Deadlines: scoring stops when the caller has stopped waiting."""

from __future__ import annotations

import time

from darl_opensearch.errors import DarlError


class DeadlinePassed(DarlError):
    """Scoring stopped because the deadline had passed."""


class CallerGone(DarlError):
    """Scoring stopped because nobody waits for the answer any more."""


class Deadline:
    """When scoring must stop: at a given time, or once the caller is gone.

    :param at: ``time.monotonic()`` value; None: no such time.
    """

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        self.batch_seconds = 0.0  # that the batches under this deadline have taken, summed over the threads
        self._caller_gone = False

    def cancel(self) -> None:
        """Stop as soon as possible, because the caller is gone."""
        self._caller_gone = True

    def check(self) -> None:
        """Go on, or stop.

        :raises CallerGone: after :meth:`cancel`.
        :raises DeadlinePassed: if the time has come.
        """
        if self._caller_gone:
            raise CallerGone("the caller closed the connection before the answer")
        if self.at is not None and time.monotonic() > self.at:
            raise DeadlinePassed(
                "the request was not scored before its deadline",
                todo="send fewer or shorter documents, raise --deadline-ms, or add cores",
            )
