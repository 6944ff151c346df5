"""Telling somebody what happened: one JSON object by HTTP POST.

For what runs by itself at night. A webhook is told at the end and never decides anything: one that does not answer, or
answers with an error, is a line of output. The body is signed where there is a secret, so that the receiver can tell
who speaks.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.io.urls import split_http

SECRET = "DARL_WEBHOOK_SECRET"  # the variable that holds it: never an option, which others could read
SIGNATURE, EVENT, DELIVERY = "X-DaRL-Signature-256", "X-DaRL-Event", "X-DaRL-Delivery"
GRACE_S = 0.5  # for the client's own limit to say what took too long
AGAIN = (429, 500, 502, 503, 504)  # answers after which another attempt makes sense


@dataclass(frozen=True)
class Webhook:
    """Where to tell it.

    :param url: ``http`` or ``https``.
    :param secret: key of the signature; None: unsigned.
    :param timeout: most seconds of one attempt, half a second more where the receiver drips.
    :param attempts: most attempts; waits of 0.5, 1, 2 … seconds lie between.
    """

    url: str
    secret: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    attempts: int = 3

    def __post_init__(self) -> None:
        """Refuse what could not be called, before what it is to be told of is done."""
        if split_http(self.url) is None:
            raise UsageError(
                "this is not the URL of a webhook", where="--webhook", todo="write it like https://host/path"
            )
        if not 0 < self.timeout <= 60 or not 1 <= self.attempts <= 10:
            raise UsageError(
                "timeout or attempts are out of range", where="--webhook", todo="give 60 s, 10 attempts at most"
            )

    @classmethod
    def of(cls, url: str | None) -> Webhook | None:
        """Make one from an option, with the secret from the environment.

        :param url: as given; None or empty: there is none.
        """
        return cls(url, os.environ.get(SECRET) or None) if url else None


@dataclass(frozen=True)
class Delivery:
    """What came of it.

    :param delivered: whether it was answered with 2xx.
    :param reason: why not.
    """

    delivered: bool
    attempts: int
    reason: str = ""


def sign(body: bytes, secret: str) -> str:
    """Sign a body.

    :return: ``sha256=`` and the HMAC-SHA256 (RFC 2104) in hexadecimal, as GitHub's webhooks have it.
    """
    return "sha256=" + hmac.new(os.fsencode(secret), body, hashlib.sha256).hexdigest()


def tell(webhook: Webhook, event: str, data: Mapping[str, Any], *, delivery: str | None = None) -> Delivery:
    """Tell what happened. Never raises for what the network or the receiver does.

    All attempts carry the same delivery id, so that a receiver can drop a repeated one. Redirects are not followed:
    a signed body goes where it was addressed.

    :param event: what happened, in a word: ``release``, ``rollback``, ``refused``.
    :param delivery: id of the delivery, where another process may tell the same again; None: a new one.
    """
    import urllib3

    # In ASCII: a path may hold bytes that are no UTF-8.
    body = json.dumps({"event": event} | dict(data), default=str).encode()
    headers = {"Content-Type": "application/json", EVENT: event, DELIVERY: delivery or str(uuid.uuid4())}
    if webhook.secret:
        headers[SIGNATURE] = sign(body, webhook.secret)
    reason = ""
    with urllib3.PoolManager(retries=False) as pool:
        for attempt in range(1, webhook.attempts + 1):
            if attempt > 1:
                time.sleep(0.5 * 2 ** (attempt - 2))
            answered = _attempt(pool, webhook, body, headers)
            if isinstance(answered, str):
                reason = answered
                continue
            if 200 <= answered < 300:
                return Delivery(True, attempt)
            reason = f"answered {answered}"
            if answered not in AGAIN:
                return Delivery(False, attempt, reason)
    return Delivery(False, webhook.attempts, reason)


def _attempt(pool: Any, webhook: Webhook, body: bytes, headers: Mapping[str, str]) -> int | str:
    """Send once; gives the status, or what failed in a word: not the error's text, whose URL may hold a token.

    In a thread: the client's limit is for each read, and none for looking up the name. A receiver that drips would
    hold up the command, and the lock of its cycle, for as long as it likes.
    """
    import urllib3

    said: list[int | str] = []

    def send() -> None:
        try:
            answer = pool.request(
                "POST", webhook.url, body=body, headers=headers, timeout=urllib3.Timeout(total=webhook.timeout),
                redirect=False, preload_content=False,
            )  # fmt: skip
            answer.close()  # its status says all
            said.append(answer.status)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as err:
            said.append(type(err).__name__)

    thread = threading.Thread(target=send, daemon=True)  # left alone where it does not end: the process may
    thread.start()
    thread.join(webhook.timeout + GRACE_S)
    return said[0] if said else "no whole answer in time"
