"""Deadlines: scoring stops when the caller has stopped waiting."""

from __future__ import annotations

import time

from darl_opensearch.errors import DarlError


class DeadlinePassed(DarlError):
    """Scoring stopped because the deadline had passed."""


def check_deadline(deadline: float | None) -> None:
    """Check a deadline.

    :param deadline: a ``time.monotonic()`` value, or None for no deadline.
    :raises DeadlinePassed: if it has passed.
    """
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlinePassed(
            "the request was not scored before its deadline",
            todo="send fewer or shorter documents, raise --deadline-ms, or add cores",
        )
