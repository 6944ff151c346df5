"""Signing in by API key: signed cookies that expire, and tokens against forged forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from darl_opensearch.server.keys import KeyRing

SESSION_SECONDS = 8 * 3600
FORM_SECONDS = 3600
_DIGITS = 32  # of the marks of keys


class Sessions:
    """What this process has signed: its secret is its own, so a restart ends all sessions.

    A session belongs to the key that it was opened with, and ends when that key is withdrawn. The key itself is in no
    cookie, URL or log.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys, self._secret = keys, secrets.token_bytes(32)

    def open(self, key: str, now: float | None = None) -> str | None:
        """Return a new session's cookie; None for a key that is none of the server's.

        :param now: seconds since 1970, for tests.
        """
        found = self._keys.find(key)
        if found is None:
            return None
        mark = self._keys.marks(self._secret, _DIGITS)[found]
        return self._signed("session", f"{_until(SESSION_SECONDS, now)}.{secrets.token_hex(8)}.{mark}")

    def is_open(self, cookie: str, now: float | None = None) -> bool:
        """Whether a cookie is a session's that has not ended."""
        text = self._read("session", cookie, now)
        if text is None:
            return False
        mark = text.rpartition(".")[2].encode()
        return any([hmac.compare_digest(mark, known.encode()) for known in self._keys.marks(self._secret, _DIGITS)])

    def nonce(self) -> str:
        """Draw what ties a form to the browser that asked for it, for a cookie."""
        return secrets.token_hex(16)

    def form_token(self, nonce: str, now: float | None = None) -> str:
        """Sign a form for the browser with this nonce."""
        return self._signed(f"form:{nonce}", str(_until(FORM_SECONDS, now)))

    def is_form(self, token: str, nonce: str, now: float | None = None) -> bool:
        """Whether a form was signed for the browser with this nonce, and not long ago."""
        return bool(nonce) and self._read(f"form:{nonce}", token, now) is not None

    def _signed(self, purpose: str, text: str) -> str:
        return f"{text}.{self._signature(purpose, text)}"

    def _read(self, purpose: str, signed: str, now: float | None) -> str | None:
        """Return a text that was signed for this purpose and begins with a time that is still to come."""
        text, _, signature = signed.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(purpose, text).encode()):
            return None
        return text if int(text.partition(".")[0]) > (time.time() if now is None else now) else None

    def _signature(self, purpose: str, text: str) -> str:
        content = f"{purpose}\n{text}".encode("utf-8", "replace")
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()


def _until(seconds: int, now: float | None) -> int:
    return int(time.time() if now is None else now) + seconds
