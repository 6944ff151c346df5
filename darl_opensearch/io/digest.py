"""SHA-256 of files and values, and short hashes that draw."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def digest_file(path: str | os.PathLike[str]) -> str:
    """Digest a file's bytes, in 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_data(data: str | bytes) -> str:
    """Digest bytes, or text as UTF-8, in 64 hexadecimal digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def digest_json(value: Any) -> str:
    """Digest a JSON-ready value, whatever the order of its keys."""
    return digest_data(json.dumps(value, sort_keys=True))


def hash_int(data: str | bytes, *, purpose: bytes = b"") -> int:
    """Hash bytes, or text as UTF-8, to 64 evenly distributed bits: an order or a draw that every machine repeats.

    :param purpose: sets apart draws over the same values, at most 16 bytes.
    """
    content = data.encode() if isinstance(data, str) else data
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=purpose).digest())
