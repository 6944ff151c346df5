"""The API keys that a scorer accepts; a changed key file is read again, so that keys rotate without a restart."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.settings.secrets import read_secret_lines

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int]


class KeyRing:
    """Accepted API keys; without any, all callers are admitted.

    :param key: a fixed key.
    :param file: one key per line. When it can no longer be read, the keys read last stay valid, and a warning is
        logged.
    :raises InputError: if the file holds no key, or a key is not allowed in a header.
    """

    def __init__(self, key: str | None = None, file: Path | None = None) -> None:
        self._fixed, self._file = {key} if key else set(), file
        self._stamp = self._look()
        self._keys = self._read()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, token: str) -> int | None:
        """Return the number of the key that a caller sent; None if it is none of them."""
        self._refresh()
        # Compared with all keys, and in full, so that the time reveals nothing.
        sent = token.encode("utf-8", "replace")
        matches = [hmac.compare_digest(sent, key) for key in self._keys]
        return matches.index(True) if any(matches) else None

    def marks(self, secret: bytes, digits: int) -> list[str]:
        """Return what stands for each key where the key itself must not: keyed digests, by the keys' numbers.

        :param digits: hexadecimal digits of each.
        """
        self._refresh()
        return [hmac.new(secret, key, hashlib.sha256).hexdigest()[:digits] for key in self._keys]

    def _refresh(self) -> None:
        if self._file is None or (stamp := self._look()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except DarlError as err:
            log.warning("the API keys were not read again, and the old ones stay valid: %s", err)
        else:
            log.info("%d API keys read again from %s", len(self._keys), self._file)

    def _look(self) -> Stamp | None:
        try:
            seen = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_dev) if seen is not None else None

    def _read(self) -> list[bytes]:
        keys = self._fixed | set(read_secret_lines(self._file) if self._file is not None else ())
        for key in keys:
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise InputError(
                    "an API key has characters that are not allowed in a header",
                    where=str(self._file) if key not in self._fixed else None,
                    todo="use printable ASCII without spaces",
                )
        return [key.encode("ascii") for key in sorted(keys)]
