"""URLs that are called: whether one can be, and how one is shown."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def split_http(url: str) -> SplitResult | None:
    """Take an ``http`` or ``https`` URL apart.

    :return: its parts; None: no client could call it, for it has another scheme, no host that is one, no port that is
        one, or a character that cannot be printed.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0 and url.isprintable()
        return parts if usable and _is_host(parts.hostname or "", bracketed="[" in parts.netloc) else None
    except ValueError:
        return None


def _is_host(name: str, *, bracketed: bool) -> bool:
    """Say whether a name can be looked up, or is an address."""
    if bracketed:
        ipaddress.IPv6Address(name)
    elif name.isascii():  # of other names the client knows more than this codec, which is of 2003
        name.encode("idna")  # refuses labels that are empty or too long
    return bool(name) and "xn--" not in name.split(".") and not any(c.isspace() for c in name)


def without_secrets(url: str) -> str:
    """Take user and password out of a URL, for messages.

    :param url: a URL, or what was meant to be one.
    :return: the same without them.
    """
    # By hand: what holds a secret may be no URL that a parser would take apart as its writer meant it.
    before, _, host = url.rpartition("@")
    scheme, mark, _ = before.partition("://")
    return f"{scheme}{mark}{host}" if mark else host
