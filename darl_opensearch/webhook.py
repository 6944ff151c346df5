"""Telling somebody what happened: one JSON object by HTTP POST.

For what runs by itself at night. A webhook is told at the end and never decides anything: one that does not answer, or
answers with an error, is a line of output. The body is signed where there is a secret, so that the receiver can tell
who speaks.
"""

from __future__ import annotations

import hmac
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.io.http import RETRYABLE, HttpClient, HttpError, TryAgain, retry
from darl_opensearch.io.urls import split_http
from darl_opensearch.settings.secrets import read_secret

SECRET = "DARL_WEBHOOK_SECRET"  # the variable that holds it: never an option, which others could read
SIGNATURE, EVENT, DELIVERY = "X-DaRL-Signature-256", "X-DaRL-Event", "X-DaRL-Delivery"


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
            raise UsageError("not a webhook URL", where="--webhook", todo="write it like https://host/path")
        if not 0 < self.timeout <= 60 or not 1 <= self.attempts <= 10:
            raise UsageError(
                "timeout or attempts are out of range", where="--webhook", todo="use at most 60 s and 10 attempts"
            )

    @classmethod
    def of(cls, url: str | None) -> Webhook | None:
        """Make one from an option, with the secret from the environment or a file.

        :param url: as given; None or empty: there is none.
        """
        return cls(url, read_secret(SECRET)) if url else None


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
    return "sha256=" + hmac.new(os.fsencode(secret), body, "sha256").hexdigest()


def tell(webhook: Webhook, event: str, data: Mapping[str, Any], *, delivery: str | None = None) -> Delivery:
    """Tell what happened. Never raises for what the network or the receiver does.

    All attempts carry the same delivery id, so that a receiver can drop a repeated one. Redirects are not followed:
    a signed body goes where it was addressed.

    :param event: what happened, in a word: ``release``, ``rollback``, ``refused``.
    :param delivery: id of the delivery, where another process may tell the same again; None: a new one.
    """
    # In ASCII: a path may hold bytes that are no UTF-8.
    body = json.dumps({"event": event} | dict(data), default=str).encode()
    headers = {"Content-Type": "application/json", EVENT: event, DELIVERY: delivery or str(uuid.uuid4())}
    if webhook.secret:
        headers[SIGNATURE] = sign(body, webhook.secret)
    attempts = 0

    def send() -> Delivery:
        nonlocal attempts
        attempts += 1
        try:
            status = client.send("POST", webhook.url, body, headers).status
        except HttpError as err:
            raise TryAgain(str(err)) from err
        if status in RETRYABLE:
            raise TryAgain(f"answered {status}")
        delivered = 200 <= status < 300
        return Delivery(delivered, attempts, "" if delivered else f"answered {status}")

    with HttpClient(webhook.timeout, most_bytes=0, proxies=False) as client:
        try:
            return retry(send, webhook.attempts - 1, 0.5, jitter=False)
        except TryAgain as err:
            return Delivery(False, attempts, err.reason)
