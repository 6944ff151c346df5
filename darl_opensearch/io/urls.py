"""Checking URLs before requests, and hiding secrets in them."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def split_http(url: str) -> SplitResult | None:
    """Split an ``http`` or ``https`` URL.

    :return: its parts; None if it has another scheme, an invalid host or port, or unprintable characters.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0 and url.isprintable()
        return parts if usable and _is_host(parts.hostname or "", bracketed="[" in parts.netloc) else None
    except ValueError:
        return None


def _is_host(name: str, *, bracketed: bool) -> bool:
    """Whether a name can be looked up, or is an address."""
    if bracketed:
        ipaddress.IPv6Address(name)
    elif name.isascii():  # this codec is from 2003; the client knows newer rules for other names
        name.encode("idna")  # refuses labels that are empty or too long
    return bool(name) and "xn--" not in name.split(".") and not any(c.isspace() for c in name)


def holds_credentials(url: str) -> bool:
    """Whether a URL holds a user or a password, also one that cannot be parsed because the password is not encoded."""
    parts = split_http(url)
    return "@" in (url if parts is None else parts.netloc)


def without_secrets(url: str) -> str:
    """Remove user and password from a URL, valid or not, for messages."""
    # By hand, because a parser may split an invalid URL elsewhere and leave the secret in.
    before, _, host = url.rpartition("@")
    scheme, mark, _ = before.partition("://")
    return f"{scheme}{mark}{host}" if mark else host
