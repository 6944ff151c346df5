"""How signals end a command: whatever it started is ended first, and unfinished files are removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ORDERLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal has come that ends the command.

    :param number: the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`Stopped` at SIGINT, SIGTERM and SIGHUP, unless the caller of the command had them ignored.

    After the first, only another SIGINT is heard: make and timeout send SIGTERM twice, which must not stop the cleanup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        if stopped and number != signal.SIGINT:
            return
        stopped.append(number)
        raise Stopped(signal.Signals(number))

    default = (signal.SIG_DFL, signal.default_int_handler)
    previous = {number: old for number in ORDERLY if (old := signal.getsignal(number)) in default}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, old in previous.items():
            # Once stopped, a further Ctrl-C ends Python's own shutdown without a traceback.
            signal.signal(number, signal.SIG_DFL if stopped else old)
