"""Opening input files, plain or gzipped, with errors that name them."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from darl_opensearch.errors import InputError
from darl_opensearch.io.progress import watch_file

UTF8 = "utf-8"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class EncodingError(InputError):
    """A file is not in the expected encoding.

    :param likely: the encoding that it is probably in, or ``""``.
    """

    def __init__(self, what: str, *, where: str, todo: str, likely: str = "") -> None:
        super().__init__(what, where=where, todo=todo)
        self.likely = likely


def not_utf8(data: bytes, where: str, *, start: int = 0) -> EncodingError:
    """Make the error for bytes that are not UTF-8.

    :param data: of one line.
    :param start: position of the first byte that cannot be decoded.
    """
    likely = likely_encoding(data)
    hint = f"; it is probably {likely}" if likely else ""
    what = f"not UTF-8 at byte {start + 1} (0x{data[start]:02X})" if data else "not UTF-8"
    return EncodingError(what, where=where, todo=f"save the file as UTF-8{hint}", likely=likely)


def likely_encoding(data: bytes) -> str:
    """Guess the encoding of bytes that are not UTF-8 text: ``utf-16``, ``cp1252``, or ``""`` if it is neither."""
    if data.startswith(_UTF16_MARKS):
        return "utf-16"
    if b"\0" in data[:4]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "cp1252"


@contextlib.contextmanager
def reading(path: Path, encoding: str = UTF8) -> Iterator[None]:
    """Translate errors while reading a file.

    :param encoding: in which its text is read.
    :raises InputError: if it cannot be read, is damaged, or is not in this encoding.
    """
    try:
        yield
    except UnicodeError as err:
        if encoding == UTF8:
            raise _locate(path) from err
        raise EncodingError(f"not {encoding}", where=str(path), todo="name the encoding it is saved in") from err
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise InputError(f"damaged gzip data ({err})", where=str(path), todo="create the file again") from err
    except OSError as err:
        raise InputError(
            f"cannot be read ({err.strerror or err})", where=str(path), todo="check the path and its permissions"
        ) from err


def _locate(path: Path) -> EncodingError:
    """Find the first line of a file that is not UTF-8; a pipe cannot be read again."""
    with contextlib.suppress(OSError), open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(UTF8)
            except UnicodeDecodeError as err:
                return not_utf8(line, f"{path}, line {number}", start=err.start)
            if b"\0" in line[:4]:
                return not_utf8(line, f"{path}, line {number}", start=line.index(b"\0"))
    return not_utf8(b"", str(path))


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; ``.gz`` is unpacked. How much of it has been read is shown as progress."""
    file: IO[bytes] = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
    watch_file(file, path)
    return file


def open_text(path: Path, encoding: str = UTF8, *, newline: str = "") -> IO[str]:
    """Open a text file within :func:`reading`; ``.gz`` is unpacked, and a byte order mark is left out.

    :param newline: as of :class:`io.TextIOWrapper`.
    :raises UnicodeError: for UTF-16 without a byte order mark, which UTF-8 would decode with a zero in each character.
    """
    file = open_bytes(path)
    if encoding != UTF8:
        return io.TextIOWrapper(file, encoding=encoding, newline=newline)
    if b"\0" in file.peek(4)[:4]:  # type: ignore[attr-defined]
        file.close()
        raise UnicodeError("a zero byte")
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
