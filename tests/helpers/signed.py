"""A proxy that wants signed requests: AWS Signature Version 4, recomputed from what arrives.

Ours, after the specification ("Create a signed AWS API request"), not botocore's: the client signs with that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from urllib.parse import quote, unquote

from tests.helpers.http import Quiet, guarded_proxy

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<scope>\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request)"
    r", SignedHeaders=(?P<names>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def digest(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def sign(request: Quiet, body: bytes, match: re.Match[str], secret: str) -> str:
    """The signature that a request should have."""
    path, _, query = request.path.partition("?")
    names = match["names"].split(";")
    headers = "".join(f"{name}:{' '.join((request.headers.get(name) or '').split())}\n" for name in names)
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    encoded = sorted((quote(unquote(key), safe="-_.~"), quote(unquote(value), safe="-_.~")) for key, value in pairs)
    canonical = "\n".join(
        [
            request.command,
            quote(path, safe="/-_.~"),  # encoded once more, for every service but S3
            "&".join(f"{key}={value}" for key, value in encoded),
            headers,
            match["names"],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    when = request.headers["X-Amz-Date"]
    text = "\n".join(["AWS4-HMAC-SHA256", when, match["scope"], hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in match["scope"].split("/"):
        key = digest(key, part)
    return digest(key, text).hex()


def signed_proxy(target: str, identity: str, secret: str, region: str, service: str) -> type[Quiet]:
    """A reverse proxy that answers 403, as Amazon's does, to what is not signed with these credentials."""

    class Proxy(guarded_proxy(target, "", "")):  # type: ignore[misc]
        def refuse(self, body: bytes) -> bool:
            match = _HEADER.fullmatch(self.headers.get("Authorization") or "")
            reason = ""
            if match is None:
                reason = "User: anonymous is not authorized"
            elif match["id"] != identity:
                reason = "The security token included in the request is invalid."
            elif (match["region"], match["service"]) != (region, service):
                reason = f"Credential should be scoped to a valid region and to service {service}."
            elif sign(self, body, match, secret) != match["signature"]:
                reason = "The request signature we calculated does not match the signature you provided."
            elif self.headers["X-Amz-Content-SHA256"] != hashlib.sha256(body).hexdigest():
                reason = "The payload's hash is missing."  # Serverless asks for it
            if reason:
                self.answer(403, json.dumps({"message": reason}).encode())
            return bool(reason)

    return Proxy
