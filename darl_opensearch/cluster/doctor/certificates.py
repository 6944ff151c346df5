"""Certificates: of the cluster, of the scorer, the client's own, and the CA file that is configured."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.cluster.doctor.results import CheckResult
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.errors import ClusterError
from darl_opensearch.io.urls import split_http

TIMEOUT_S = 5.0
SOON_DAYS = 30
DAY_S = 86_400
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for


def check_certificates(subject: Subject) -> Iterator[CheckResult]:
    """Check the dates of the cluster's and the scorer's certificate, of the client's own, and of the CA file."""
    options = subject.options
    own = options.client_cert
    servers = {"the cluster": subject.cluster.url}
    with contextlib.suppress(ClusterError):  # the checks of the model say why its scorer is not known
        servers |= {"the scorer": subject.scorer_url or ""}
    looked = False
    for name, url in servers.items():
        if not url.startswith("https:"):
            continue
        looked = True
        try:
            fields = read_certificate(url, own if name == "the cluster" else None)
            yield judge_dates(f"{name}'s certificate", fields, time.time())
        except OSError as err:
            yield CheckResult("not checked", f"{name}'s certificate cannot be read from {url} ({err})")
    if own is not None:
        looked = True
        try:
            yield judge_dates(f"the client certificate {own[0]}", read_own_certificate(*own), time.time())
        except OSError as err:
            yield CheckResult("not checked", f"the dates of the client certificate {own[0]} cannot be read ({err})")
    if options.ca_certs is not None:
        looked = True
        yield from _check_file(options.ca_certs)
    if not looked:
        yield CheckResult("not checked", "neither the cluster nor the scorer is reached by https")
    elif not options.verify_certificate:
        todo = "pass the CA certificate with --ca-certs, and omit --insecure"
        yield CheckResult("warning", "the cluster's certificate is not verified (--insecure)", todo)


def read_certificate(url: str, own: tuple[Path, Path | None] | None = None) -> Mapping[str, Any]:
    """Read the certificate that a server presents, whoever signed it and whatever its dates.

    :param own: the client's certificate and key, for a server that asks for one.
    :return: its fields, as ``ssl.SSLSocket.getpeercert`` gives them.
    :raises OSError: if it cannot be read.
    """
    parts = split_http(url)
    host, port = (parts.hostname or "", parts.port or 443) if parts else ("", 443)
    blind, trusting = _make_blind(own), _make_blind(own)
    with _handshake(blind, host, port) as secured:
        der = secured.getpeercert(binary_form=True) or b""
    _trust_alone(trusting, cadata=der)
    with _handshake(trusting, host, port) as secured:
        return secured.getpeercert() or {}


def read_own_certificate(cert: Path, key: Path | None) -> Mapping[str, Any]:
    """Read a client certificate from its file, by a handshake with ourselves: nothing else gives its parts.

    :param cert: PEM file; it may hold the key as well.
    :return: see :func:`read_certificate`.
    :raises OSError: if it cannot be read, or is not for clients.
    """
    client, server = _make_blind((cert, key)), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    _trust_alone(server, cafile=cert)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asked, asking = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for end in (asked, asking, asked, asking):  # hello, hello, certificate, its verification
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return asking.getpeercert() or {}


def _make_blind(own: tuple[Path, Path | None] | None) -> ssl.SSLContext:
    """Make a client's context that trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own is not None:
        context.load_cert_chain(*own)
    return context


def _trust_alone(context: ssl.SSLContext, **certificate: Any) -> None:
    """Trust one certificate, whatever its dates: only one that was verified is given in parts."""
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.load_verify_locations(**certificate)


def judge_dates(name: str, fields: Mapping[str, Any], now: float) -> CheckResult:
    """Judge the dates of a certificate.

    :param name: for the text.
    :param fields: see :func:`read_certificate`.
    :param now: seconds since 1970.
    """
    try:
        begins, ends = (ssl.cert_time_to_seconds(fields[field]) for field in ("notBefore", "notAfter"))
    except (KeyError, ValueError):
        return CheckResult("not checked", f"{name} gives no dates")
    if now < begins:
        return CheckResult("problem", f"{name} is not valid before {fields['notBefore']}", "check the clocks")
    days = int((ends - now) // DAY_S)
    if now >= ends:
        return CheckResult("problem", f"{name} expired on {fields['notAfter']}", "renew it")
    if days < SOON_DAYS:
        return CheckResult("warning", f"{name} expires in {days} days, on {fields['notAfter']}", "renew it")
    return CheckResult("ok", f"{name} is valid for {days:,} more days")


def _check_file(file: Path) -> Iterator[CheckResult]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as err:
        yield CheckResult("problem", f"{file} holds no readable certificate ({err})", "check --ca-certs")
        return
    for fields in context.get_ca_certs():
        subject = dict(pair for part in fields.get("subject", ()) for pair in part)  # type: ignore[misc]
        name = subject.get("commonName") or subject.get("organizationName") or "without a name"
        result = judge_dates(f"the CA certificate {name} in {file}", fields, time.time())
        yield result


@contextlib.contextmanager
def _handshake(context: ssl.SSLContext, host: str, port: int) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        yield secured
