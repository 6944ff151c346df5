"""What a client trusts and shows in a TLS handshake."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from darl_opensearch.errors import InputError


def make_context(
    ca_certs: Path | str | None = None,
    client_cert: Path | None = None,
    client_key: Path | None = None,
    *,
    insecure: bool = False,
) -> ssl.SSLContext:
    """Make the context of a client's connections.

    :param ca_certs: file or folder with the CA certificates to trust; None: OpenSSL's default.
    :param client_cert: PEM file with the certificate to show; it may hold the key as well.
    :param client_key: PEM file with its key.
    :param insecure: do not verify the server's certificate; the client's is shown all the same.
    :raises InputError: naming the file that does not hold what it must.
    """
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif ca_certs is not None:
        context = _trust(Path(ca_certs))
    if client_cert is not None:
        _show(context, client_cert, client_key)
    return context


def _trust(ca_certs: Path) -> ssl.SSLContext:
    try:
        if ca_certs.is_dir():
            return ssl.create_default_context(capath=ca_certs)
        return ssl.create_default_context(cafile=ca_certs)
    except ssl.SSLError as err:
        raise InputError("the file holds no certificate", where=str(ca_certs), todo="write it in PEM form") from err
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", where=str(ca_certs), todo="check the path") from err


def _show(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    encrypted = False

    def refuse() -> str:  # instead of OpenSSL's prompt on the terminal
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as err:
        where = os.fspath(key or cert)
        if encrypted:
            raise InputError("the key is encrypted", where=where, todo="decrypt it: openssl pkey -in KEY") from err
        if err.reason == "KEY_VALUES_MISMATCH":
            raise InputError(f"the key is not that of {cert}", where=where, todo="pass its own key") from err
        both = "certificate or no key" if key is None else f"key, or {cert} no certificate"
        raise InputError(f"the file holds no {both}", where=where, todo="write both in PEM form") from err
    except OSError as err:
        where = f"{cert} or {key}" if key else str(cert)
        raise InputError(f"cannot be read ({err.strerror})", where=where, todo="check the paths") from err
