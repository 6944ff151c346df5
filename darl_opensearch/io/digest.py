"""SHA-256 of files and values, and 64-bit hashes for reproducible draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO, Any


def digest_file(file: Path | IO[bytes]) -> str:
    """Digest a file, or the rest of an open one, in 64 hexadecimal digits."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return digest_file(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def digest_data(data: str | bytes) -> str:
    """Digest bytes, or text as UTF-8, in 64 hexadecimal digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def digest_json(value: Any, *, ensure_ascii: bool = True) -> str:
    """Digest a JSON-ready value, whatever the order of its keys.

    :param ensure_ascii: as of :func:`json.dumps`; it must not change for digests that are stored.
    """
    return digest_data(json.dumps(value, sort_keys=True, ensure_ascii=ensure_ascii))


def name_text(prefix: str, text: str) -> str:
    """Derive an id from a text: the prefix and 16 hexadecimal digits."""
    return f"{prefix}-{digest_data(text)[:16]}"


def hash_int(data: str | bytes, *, purpose: bytes = b"") -> int:
    """Hash bytes, or text as UTF-8, to 64 uniform bits: an order or a draw that is the same on every machine.

    :param purpose: makes draws over the same values independent; at most 16 bytes.
    """
    content = data.encode() if isinstance(data, str) else data
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=purpose).digest())
