"""Which URLs can be called, and that none shows what it holds."""

from __future__ import annotations

import pytest

from darl_opensearch.io.urls import split_http, without_secrets


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://h", "h", None),
        ("https://h:9200/prefix", "h", 9200),
        ("http://[::1]:65535/", "::1", 65535),
        ("HTTPS://ann:s3cret@h:1/x", "h", 1),
        ("http://my_service.local./", "my_service.local.", None),
        ("http://b\u00fccher.example/", "b\u00fccher.example", None),
        ("http://[fe80::1%25eth0]/", "fe80::1%25eth0", None),
    ],
)
def test_urls(url, host, port):
    parts = split_http(url)
    assert (parts.hostname, parts.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:9200",
        "ftp://h",
        "http://",
        "http:///x",
        "http://h:0/",
        "http://h:99999",
        "http://h:x",
        "http://[::1",
        "http://a..b/",
        "http://xn--/",
        "http://a b/",
        "http://h\x7f/",
        "http://h/\x00",
        f"http://{'a' * 64}/",
        "http://[v1.a]/",
    ],
)
def test_no_urls(url):
    assert split_http(url) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:1/x", "http://h:1/x"),
        ("http://ann:s3cret@h:1/x", "http://h:1/x"),
        ("http://ann:s3/cr@et@h:1/x", "http://h:1/x"),
        ("ann:s3cret@h", "h"),
    ],
)
def test_secrets_are_left_out(url, shown):
    assert without_secrets(url) == shown
