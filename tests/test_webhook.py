"""A webhook: signed, tried again, never in the way."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time

import pytest

from darl_opensearch.cli.webhook_option import refusal_announced
from darl_opensearch.cluster.history import Event, Served
from darl_opensearch.cluster.release import ReleaseRefused
from darl_opensearch.errors import GateRefused, UsageError
from darl_opensearch.webhook import Webhook, sign, tell
from tests.helpers.http import Quiet, serving


def receiver(*statuses):
    """Answers with each status in turn, the last one for ever."""
    seen = []

    class Receiver(Quiet):
        def do_POST(self):
            seen.append((dict(self.headers.items()), self.body()))
            self.answer(statuses[min(len(seen), len(statuses)) - 1], b"")

    return seen, Receiver


def headers_of(request):
    return {name.lower(): value for name, value in request[0].items()}


def test_signature_is_the_one_of_rfc_4231():
    # Test case 2: key "Jefe".
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign(b"what do ya want for nothing?", "Jefe") == f"sha256={expected}"


def test_what_is_told():
    seen, handler = receiver(200)
    with serving(handler) as url:
        found = tell(Webhook(url + "/x?token=1", "key"), "release", {"version": "2", "who": "Zoë"})
    assert (found.delivered, found.attempts, found.reason) == (True, 1, "")
    [(_, body)] = seen
    assert json.loads(body) == {"event": "release", "version": "2", "who": "Zoë"}
    headers = headers_of(seen[0])
    assert headers["x-darl-event"] == "release" and headers["content-type"] == "application/json"
    assert headers["x-darl-signature-256"] == "sha256=" + hmac.new(b"key", body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_is_tried_again_with_the_same_delivery(status, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    seen, handler = receiver(status, status, 204)
    with serving(handler) as url:
        found = tell(Webhook(url), "release", {})
    assert found.delivered and found.attempts == 3 and waits == [0.5, 1.0]
    assert len({headers_of(one)["x-darl-delivery"] for one in seen}) == 1
    assert "x-darl-signature-256" not in headers_of(seen[0])  # no secret, no signature


def test_it_gives_up(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    seen, handler = receiver(500)
    with serving(handler) as url:
        found = tell(Webhook(url), "release", {})
    assert (found.delivered, len(seen), found.reason) == (False, 3, "answered 500")
    for status in (302, 404):  # again would be no better; a signed body goes nowhere else
        seen, handler = receiver(status)
        with serving(handler) as url:
            assert tell(Webhook(url), "release", {}).reason == f"answered {status}"
        assert len(seen) == 1


def test_nobody_there_or_nobody_in_time(monkeypatch):
    found = tell(Webhook("http://127.0.0.1:9/?token=abc", attempts=1), "release", {})
    assert not found.delivered and "abc" not in found.reason

    class Slow(Quiet):
        def do_POST(self):
            self.body()
            time.sleep(1.0)

    with serving(Slow) as url:
        found = tell(Webhook(url, timeout=0.2, attempts=1), "release", {})
    assert (found.delivered, found.reason) == (False, "timed out")


def test_a_receiver_that_drips_is_left(monkeypatch):
    monkeypatch.setattr("darl_opensearch.io.http.GRACE_S", 0.1)
    done = threading.Event()

    def drip(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for byte in b"HTTP/1.1 200 OK":
                connection.sendall(bytes([byte]))
                if done.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found = tell(Webhook(url, timeout=0.3, attempts=1), "release", {})
        done.set()
        thread.join()
    assert (found.delivered, found.reason) == (False, "no complete answer within 0.3 s")


def test_what_is_no_utf_8_is_told_and_signed_all_the_same():
    seen, handler = receiver(200)
    secret = "k\udce9y"  # as the environment holds a byte that is no UTF-8
    with serving(handler) as url:
        assert tell(Webhook(url, secret), "release", {"path": "caf\udce9"}).delivered
    [(_, body)] = seen
    assert json.loads(body)["path"] == "caf\udce9"
    expected = hmac.new(b"k\xe9y", body, hashlib.sha256).hexdigest()
    assert headers_of(seen[0])["x-darl-signature-256"] == f"sha256={expected}"


@pytest.mark.parametrize("url", ["nowhere", "ftp://x/y", "http://", "http://x:0/", "http://[::1"])
def test_urls_that_are_none(url):
    with pytest.raises(UsageError, match="--webhook: not a webhook URL. Write it like https://host/path"):
        Webhook(url)


def test_a_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("DARL_WEBHOOK_SECRET", "s3cret")
    assert Webhook.of("http://x/").secret == "s3cret" and "s3cret" not in repr(Webhook.of("http://x/"))
    assert Webhook.of(None) is None and Webhook.of("") is None


def test_a_refusal_is_told_and_stays_one(capsys):
    event = Event(
        "darl", 2, "refused", "done", "2026-03-01T12:00:00Z", Served("shoes", "2", "local", "m2"), reason="no"
    )
    refusal = ReleaseRefused("the gate says no", where="bundle", event=event)
    seen, handler = receiver(200)
    with serving(handler) as url:
        for error, dry_run in ((refusal, True), (GateRefused("another no"), False), (refusal, False)):
            with pytest.raises(type(error)) as err, refusal_announced(Webhook(url), dry_run=dry_run):
                raise error
            assert err.value is error
        with pytest.raises(ReleaseRefused), refusal_announced(None, dry_run=False):
            raise refusal
    [(_, body)] = seen
    assert json.loads(body) == event.to_json() | {"event": "refused", "message": "bundle: the gate says no."}
    assert capsys.readouterr() == ("", "")
