"""Giving up on a request whose caller has stopped waiting."""

from __future__ import annotations

import time

from darl_opensearch.errors import DarlError


class DeadlinePassed(DarlError):
    """Scoring was given up: whoever asked has gone on without an answer."""


def check(deadline: float | None) -> None:
    """Stop here if the deadline has passed.

    :param deadline: a ``time.monotonic()`` value, or None for no deadline.
    :raises DeadlinePassed: when it lies in the past.
    """
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlinePassed(
            "the request was not scored before its deadline",
            todo="send fewer or shorter documents, raise --deadline-ms, or add cores",
        )
