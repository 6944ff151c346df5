"""Secrets come from a variable, or from a file; never from an argument, which other users of a machine can see."""

from __future__ import annotations

import os
from pathlib import Path

from darl_opensearch.errors import InputError, UsageError

FILE = "_FILE"  # NAME_FILE is a variable that names the file with the value of NAME


def read_secret(variable: str) -> str | None:
    """Read a secret from a variable, or from the file that ``VARIABLE_FILE`` names.

    :return: None if neither is set.
    :raises UsageError: if both are.
    :raises InputError: if the file does not hold exactly one line.
    """
    value, file = os.environ.get(variable), os.environ.get(variable + FILE)
    if value and file:
        raise UsageError(f"{variable} and {variable}{FILE} are both set", todo="keep one of the two")
    return read_secret_file(Path(file)) if file else value or None


def read_secret_file(path: Path) -> str:
    """Read a file that holds one secret, without the blanks around it.

    :raises InputError: if it does not hold exactly one line.
    """
    lines = read_secret_lines(path)
    if len(lines) > 1:
        raise InputError(f"the file holds {len(lines)} lines, not one secret", where=str(path), todo="keep one line")
    return lines[0]


def read_secret_lines(path: Path) -> list[str]:
    """Read a file of secrets, one per line, without blank lines and the blanks around them.

    :raises InputError: if it cannot be read or holds none; the message never quotes it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("the file is not UTF-8", where=str(path), todo="write the secret as plain text") from None
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", where=str(path), todo="check path and owner") from err
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("the file holds no secret", where=str(path), todo="write it on one line")
    return lines


def first_key(key: str | None, file: Path | None) -> str | None:
    """Choose the API key to send to a scorer.

    :param key: the key itself.
    :param file: the scorer's file of keys, of which the first is the newest.
    :return: None if there is neither.
    :raises UsageError: if there are both.
    """
    if key and file is not None:
        raise UsageError("DARL_API_KEY and DARL_API_KEY_FILE are both set", todo="keep one of the two")
    return read_secret_lines(file)[0] if file is not None else key or None
