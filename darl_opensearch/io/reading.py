"""Opening input files, plain or gzipped, with errors that name them."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from darl_opensearch.errors import InputError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate errors while reading a file.

    :raises InputError: if it cannot be read, is damaged, or is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as err:
        raise InputError("not UTF-8", where=str(path), todo="save the file as UTF-8") from err
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise InputError(f"damaged gzip data ({err})", where=str(path), todo="create the file again") from err
    except OSError as err:
        raise InputError(
            f"cannot be read ({err.strerror or err})", where=str(path), todo="check the path and its permissions"
        ) from err


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; ``.gz`` is unpacked."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
