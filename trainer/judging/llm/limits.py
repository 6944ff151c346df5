"""Request rate and budget of an endpoint."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass


class Pace:
    """Spaces the requests of any number of threads evenly, and pauses them all if the endpoint asks for it.

    :param per_minute: maximum requests; 0: no limit.
    """

    def __init__(self, per_minute: float) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the next free slot."""
        while not stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._gap
                    return
                seconds = self._next - now
            stop.wait(seconds)

    def hold(self, seconds: float) -> None:
        """Delay all further requests."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


@dataclass(frozen=True)
class Prices:
    """Prices of tokens."""

    prompt: float
    completion: float

    def cost(self, prompt: int, completion: int) -> float:
        """Price tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


class Budget:
    """Caps usage, including requests in flight.

    :param tokens: maximum; 0: no limit.
    :param cost: maximum; 0: no limit.
    """

    def __init__(self, tokens: int, cost: float, prices: Prices, spent: tuple[int, int] = (0, 0)) -> None:
        self._tokens, self._cost, self._prices = tokens, cost, prices
        self._spent, self._held = list(spent), [0, 0]
        self._lock = threading.Lock()

    def take(self, prompt: int, completion: int) -> str:
        """Reserve tokens for a request.

        :param prompt: estimated input tokens.
        :return: ``""``, or the cap that forbids it; then nothing is reserved.
        """
        with self._lock:
            sent = self._spent[0] + self._held[0] + prompt
            received = self._spent[1] + self._held[1] + completion
            if self._tokens and sent + received > self._tokens:
                return "token_cap"
            if self._cost and self._prices.cost(sent, received) > self._cost:
                return "cost_cap"
            self._held[0] += prompt
            self._held[1] += completion
            return ""

    def settle(self, held: tuple[int, int], prompt: int, completion: int) -> None:
        """Replace a request's reservation with its usage.

        :param prompt: input tokens; 0 if it failed.
        """
        with self._lock:
            for place, (reserved, used) in enumerate(zip(held, (prompt, completion), strict=True)):
                self._held[place] -= reserved
                self._spent[place] += used
