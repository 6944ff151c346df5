"""Certificates of a CA made for one test run, by the ``openssl`` command."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Authority:
    """A CA in a folder of its own.

    :param name: common name; the folder's too.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self._key, self.cert = self._request(
            name, "-x509", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign"
        )

    def issue(self, name: str, *, host: str = "", days: int = 2) -> tuple[Path, Path]:
        """Make a certificate.

        :param host: for a server: its name, such as ``IP:127.0.0.1``.
        :param days: validity from now on; negative: it has expired.
        :return: certificate and key.
        """
        key, request = self._request(name)
        cert, more = self.folder / f"{name}.pem", self.folder / f"{name}.ext"
        names = [f"subjectAltName={host}"] if host else []
        more.write_text("\n".join(["authorityKeyIdentifier=keyid", *names]))
        run(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", days,
            "-extfile", more, "-out", cert,
        )  # fmt: skip
        return cert, key

    def _request(self, name: str, *more: str) -> tuple[Path, Path]:
        key, out = self.folder / f"{name}.key", self.folder / f"{name}.request"
        run(
            "req", *more, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", out,
            "-subj", f"/CN={name}",
        )  # fmt: skip
        return key, out


def run(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def server_context(cert: Path, key: Path, *, clients: Path | None = None) -> ssl.SSLContext:
    """Make a server's context.

    :param clients: CA whose certificate a client must show; None: it need not show any.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context
