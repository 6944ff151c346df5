"""URLs that are called: whether one can be, and how one is shown."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split_http(url: str) -> SplitResult | None:
    """Take an ``http`` or ``https`` URL apart.

    :param url: as it was given.
    :return: its parts; None: no client could call it, for it has another scheme, no host, or no port that is one.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def without_secrets(url: str) -> str:
    """Take user and password out of a URL, for messages.

    :param url: a URL, or what was meant to be one.
    :return: the same without them.
    """
    # By hand: what holds a secret may be no URL that a parser would take apart as its writer meant it.
    before, _, host = url.rpartition("@")
    scheme, mark, _ = before.partition("://")
    return f"{scheme}{mark}{host}" if mark else host
