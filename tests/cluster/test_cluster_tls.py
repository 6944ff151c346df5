"""TLS before a cluster: each way of failing says its true reason and the remedy; nothing fails without it."""

from __future__ import annotations

import ssl
import sys

import pytest
from opensearchpy.exceptions import TransportError

from darl_opensearch.cluster import Cluster
from darl_opensearch.cluster_errors import translate
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, DarlError, InputError, MissingExtra, UsageError
from tests.helpers.certificates import Authority, run, server_context
from tests.helpers.http import guarded_proxy, serving, stub_cluster

OPENSEARCH = {"version": {"distribution": "opensearch", "number": "3.6.0"}, "cluster_name": "c"}
LOCAL = "IP:127.0.0.1"


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder, "ours"), Authority(folder, "theirs")


def identify(url, **options):
    cluster = Cluster.open(ClusterOptions(url=url, **options))
    try:
        return cluster.identify().name
    finally:
        cluster.client.close()


def told(url, **options):
    with pytest.raises(DarlError) as err:
        identify(url, **options)
    assert str(err.value).startswith(f"{url}: ")
    return str(err.value).removeprefix(f"{url}: ")


def over_tls(cert, key, clients=None):
    return serving(stub_cluster({("GET", "/"): OPENSEARCH}), server_context(cert, key, clients=clients))


def test_a_certificate_of_the_ca_is_trusted_and_another_not(authorities):
    ours, theirs = authorities
    with over_tls(*ours.issue("good", host=LOCAL)) as url:
        assert identify(url, ca_certs=ours.cert) == "c"
        untrusted = "the cluster's certificate is not signed by a trusted CA. Pass the CA certificate with --ca-certs"
        assert told(url, ca_certs=theirs.cert).startswith(untrusted)
        assert told(url).startswith(untrusted)
        assert identify(url, insecure=True) == "c"
        plain = url.replace("https", "http")
        assert told(plain) == "the connection was closed without an answer. Use https:// if the cluster uses TLS."


def test_an_expired_certificate_and_one_of_another_host(authorities):
    ours, _ = authorities
    with over_tls(*ours.issue("old", host=LOCAL, days=-1)) as url:
        assert told(url, ca_certs=ours.cert).startswith(
            "the cluster's certificate, or its CA's, has expired. Renew it on the cluster"
        )
    with over_tls(*ours.issue("elsewhere", host="DNS:search.example")) as url:
        said = told(url, ca_certs=ours.cert)
    assert said == (
        "the cluster's certificate is not for this host (IP address mismatch, certificate is not valid for "
        "'127.0.0.1'). Use a name in --url that the certificate holds, or add this one to it."
    )


def test_client_certificates(authorities):
    ours, theirs = authorities
    cert, key = ours.issue("client")
    foreign = theirs.issue("client")
    expired = ours.issue("expired-client", days=-1)
    both = cert.with_name("both.pem")
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    with over_tls(*ours.issue("asking", host=LOCAL), clients=ours.cert) as url:
        trust = {"ca_certs": ours.cert}
        assert identify(url, client_cert=cert, client_key=key, **trust) == "c"
        assert identify(url, client_cert=both, **trust) == "c"
        assert identify(url, client_cert=cert, client_key=key, insecure=True) == "c"  # shown all the same
        assert told(url, **trust) in (
            "the cluster asks for a client certificate. Pass --client-cert and --client-key.",
            # The alert can be lost, when the server closes before it was read.
            "the connection was closed without an answer. If the cluster asks for a client certificate, pass one that "
            "it accepts with --client-cert.",
        )
        for wrong in (foreign, expired):
            assert told(url, client_cert=wrong[0], client_key=wrong[1], **trust).startswith(
                ("the cluster does not accept the client certificate. Use one", "the connection was closed without")
            )


def test_files_that_hold_no_certificate(authorities, tmp_path):
    ours, theirs = authorities
    (cert, key), (_, other) = ours.issue("files"), theirs.issue("files")
    empty, locked = tmp_path / "empty.pem", tmp_path / "locked.key"
    empty.write_text("")
    run("pkey", "-in", key, "-aes256", "-passout", "pass:s3cret", "-out", locked)
    for options, where, what in (
        ({"ca_certs": empty}, empty, "the file holds no certificate. Write it in PEM form."),
        ({"client_cert": empty}, empty, "the file holds no certificate or no key. Write both in PEM form."),
        ({"client_cert": cert}, cert, "the file holds no certificate or no key"),
        ({"client_cert": cert, "client_key": other}, other, f"the key is not that of {cert}. Pass its own key."),
        ({"client_cert": cert, "client_key": locked}, locked, "the key is encrypted. Decrypt it"),
    ):
        with pytest.raises(InputError) as err:
            identify("https://127.0.0.1:9", **options)
        assert str(err.value).startswith(f"{where}: {what}")


def test_options_that_contradict_each_other(authorities):
    cert, key = authorities[0].issue("options")
    for options, what in (
        ({"url": "https://h", "client_key": key}, "there is a client key but no client certificate"),
        ({"url": "http://h", "client_cert": cert}, "a client certificate needs TLS"),
        ({"url": "https://h", "client_cert": cert.with_name("absent")}, "the file does not exist. Check --client-cert"),
        ({"url": "https://h", "aws_region": "x", "user": "a", "password": "b"}, "signed .--aws-region. or sent with"),
    ):
        with pytest.raises(UsageError, match=what):
            ClusterOptions(**options)


def test_a_password_over_tls(authorities):
    ours, _ = authorities
    forbidden = (403, {"error": {"reason": "no permissions for [indices:x] and User [name=ann]"}})
    with serving(stub_cluster({("GET", "/"): forbidden})) as node:
        context = server_context(*ours.issue("guarded", host=LOCAL))
        with serving(guarded_proxy(node, "ann", "s3cret"), context) as url:
            said = told(url, ca_certs=ours.cert, user="ann", password="wr0ng")
            assert said == (
                "the cluster does not accept this user and password (401). "
                "Check --user and OPENSEARCH_PASSWORD, or OPENSEARCH_PASSWORD_FILE."
            )
            said = told(url, ca_certs=ours.cert, user="ann", password="s3cret")
            assert said.startswith(
                "not allowed (403: no permissions for [indices:x] and User [name=ann]). Get permission"
            )


def test_a_server_of_tls_1_2_asks_for_a_certificate(authorities):
    ours, _ = authorities
    context = server_context(*ours.issue("older", host=LOCAL), clients=ours.cert)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(stub_cluster({("GET", "/"): OPENSEARCH}), context) as url:
        cert, key = ours.issue("older-client")
        assert identify(url, ca_certs=ours.cert, client_cert=cert, client_key=key) == "c"
        with pytest.raises(ClusterError, match="client-cert"):
            identify(url, ca_certs=ours.cert)


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (
            403,
            "The security token is invalid.",
            "not allowed (403: The security token is invalid.). Check --aws-region",
        ),
        (404, "", "Amazon OpenSearch Serverless does not serve this request (404). Use a domain"),
    ],
)
def test_what_amazon_refuses(status, message, said):
    err = TransportError(status, "x", {"message": message} if message else "")
    text = str(translate(err, "https://x.eu-west-1.aoss.amazonaws.com:443"))
    assert text.removeprefix("https://x.eu-west-1.aoss.amazonaws.com:443: ").startswith(said)


class Absent:
    """Stands first among the finders of modules."""

    def find_spec(self, name, path=None, target=None):
        if name == "botocore":
            raise ModuleNotFoundError("no botocore", name="botocore")


def test_signing_names_its_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"botocore is not installed. Run: .*darl-opensearch\[aws\]"):
        identify("https://h", aws_region="eu-west-1")
