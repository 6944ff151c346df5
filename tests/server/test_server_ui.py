"""The page under /ui: who sees it, how the key is asked for, and what is kept of it."""

from __future__ import annotations

import logging
import re
import threading
from contextlib import contextmanager

import pytest
import uvicorn

from darl_opensearch.server import ServerConfig, Service, create_scorer_app
from darl_opensearch.server.keys import KeyRing
from darl_opensearch.server.sessions import FORM_SECONDS, SESSION_SECONDS, Sessions
from darl_opensearch.server.ui import TRIES_PER_MINUTE
from tests.helpers.drift import World, write_log
from tests.helpers.server import TestClient

KEY = "secret-key"
HERE = "http://127.0.0.1:8091"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "bundle")


@pytest.fixture(scope="module")
def log(world, tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "ood.sqlite", world.traffic(4, 40), world.policy())


@contextmanager
def pages(world, log, base=HERE, **settings):
    service = Service(ServerConfig(**({"threads": 1} | settings)), world.bundle, None, log)
    client = TestClient(create_scorer_app(service), base_url=base, follow_redirects=False)
    yield client  # not entered: no model is loaded for a page


def token(client):
    answer = client.get("/ui/sign-in")
    assert answer.status_code == 200
    return re.search(r'name="token" value="([^"]+)"', answer.text)[1]


def sign_in(client, key=KEY, **headers):
    return client.post("/ui/sign-in", data={"token": token(client), "key": key}, headers=headers)


def test_the_page_asks_for_a_key_and_shows_the_log(world, log):
    with pages(world, log, api_key=KEY) as client:
        answer = client.get("/ui")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/sign-in")
        assert client.get("/ui/figures.json").status_code == 303
        signed = sign_in(client)
        assert (signed.status_code, signed.headers["location"]) == (303, "/ui")
        cookie = next(c for c in signed.headers.get_list("set-cookie") if c.startswith("darl_session="))
        assert {"HttpOnly", "SameSite=strict", "Path=/ui", f"Max-Age={SESSION_SECONDS}"} <= set(cookie.split("; "))
        assert "Secure" not in cookie and KEY not in cookie
        page = client.get("/ui")
        assert page.status_code == 200 and "Share of OOD pairs" in page.text and KEY not in page.text
        policy = page.headers["content-security-policy"]
        assert "script-src 'sha256-" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        for name in ("x-content-type-options", "referrer-policy", "x-frame-options", "cross-origin-opener-policy"):
            assert page.headers[name]
        assert page.headers["cache-control"] == "no-store"
        assert client.get("/ui/figures.json?slice=%3Dpet").json()["filters"]["slice"] == "pet"
        assert client.get("/ui?since=soon").status_code == 400
        assert client.get("/ui/figures.json?since=soon").status_code == 422
        # The cookie opens pages only.
        assert client.post("/v1/rerank", json={"query": "q", "documents": ["d"]}).status_code == 401


def test_over_tls_the_cookie_is_for_tls(world, log):
    with pages(world, log, base="https://scorer.example", api_key=KEY) as client:
        assert all("Secure" in cookie for cookie in sign_in(client).headers.get_list("set-cookie"))
        assert client.get("/ui").status_code == 200


def test_signing_out(world, log):
    with pages(world, log, api_key=KEY) as client:
        sign_in(client)
        page = client.get("/ui")
        assert client.post("/ui/sign-out", data={"token": "x"}).status_code == 403
        assert client.get("/ui").status_code == 200
        given = re.search(r'action="/ui/sign-out">.*?value="([^"]+)"', page.text, re.DOTALL)[1]
        assert client.post("/ui/sign-out", data={"token": given}).headers["location"] == "/ui/sign-in"
        assert client.get("/ui").status_code == 303


@pytest.mark.parametrize("key", ["", "wrong", KEY.upper(), f"{KEY}x", "schlüssel", "ключ", "\ud800", "a" * 3000])
def test_a_wrong_key_opens_nothing(world, log, key):
    with pages(world, log, api_key=KEY) as client:
        answer = client.post("/ui/sign-in", data={"token": token(client), "key": key.encode("utf-8", "replace")})
        assert answer.status_code == 401 and "The key is wrong." in answer.text
        assert not any(c.startswith("darl_session") for c in answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize("change", ["no token", "other browser", "forged", "cross-site", "too long"])
def test_a_form_of_another_page_is_refused(world, log, change):
    with pages(world, log, api_key=KEY) as client:
        data, headers = {"token": token(client), "key": KEY}, {}
        if change == "no token":
            del data["token"]
        elif change == "other browser":
            client.cookies.clear()
        elif change == "forged":
            data["token"] = data["token"][:-1] + ("0" if data["token"][-1] != "0" else "1")
        elif change == "cross-site":
            headers["Sec-Fetch-Site"] = "cross-site"
        else:
            data["key"] = "k" * 5000
        answer = client.post("/ui/sign-in", data=data, headers=headers)
        assert answer.status_code == (413 if change == "too long" else 403)
        assert not any(c.startswith("darl_session") for c in answer.headers.get_list("set-cookie"))


def test_tries_are_limited(world, log):
    with pages(world, log, api_key=KEY) as client:
        for _ in range(TRIES_PER_MINUTE):
            assert sign_in(client, "wrong").status_code == 401
        answer = sign_in(client)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert "Too many tries" in answer.text and client.get("/ui").status_code == 303


def test_the_key_is_in_no_log(world, log, caplog):
    with caplog.at_level(logging.DEBUG), pages(world, log, api_key=KEY) as client:
        sign_in(client)
        client.get("/ui")
        sign_in(client, f"{KEY}-mistyped")
    assert KEY not in "\n".join(record.getMessage() for record in caplog.records)


def test_without_keys_the_page_is_for_this_machine(world, log):
    with pages(world, log) as client:
        assert client.get("/ui").status_code == 200
        assert client.get("/ui/sign-in").headers["location"] == "/ui"
        for host in ("scorer.example", "rebound.evil:8091", ""):
            answer = client.get("/ui", headers={"Host": host})
            assert answer.status_code == 403 and "set --api-key-file" in answer.text.lower()


def test_without_a_log_the_page_says_so(world):
    with pages(world, None) as client:
        assert "keeps no OOD log" in client.get("/ui").text and client.get("/ui/figures.json").status_code == 404


# ---- sessions


def test_a_session_ends_with_its_time_and_with_its_key(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one-key\ntwo-key\n")
    sessions = Sessions(KeyRing(None, file))
    one, two = sessions.open("one-key", now=1000.0), sessions.open("two-key", now=1000.0)
    assert sessions.is_open(one, now=1000.0 + SESSION_SECONDS - 1)
    assert not sessions.is_open(one, now=1000.0 + SESSION_SECONDS)
    file.write_text("two-key\nthree-key\n")
    assert not sessions.is_open(one, now=1001.0) and sessions.is_open(two, now=1001.0)
    assert Sessions(KeyRing("two-key")).is_open(two, now=1001.0) is False  # another process's secret


@pytest.mark.parametrize("cookie", ["", ".", "..", "x", "9" * 30, "é.é.é.é", "\ud800", f"{2**40}.a.b.{'0' * 64}"])
def test_a_cookie_that_was_not_signed_opens_nothing(cookie):
    assert not Sessions(KeyRing(KEY)).is_open(cookie)


def test_a_cookie_is_good_for_its_purpose_only():
    sessions = Sessions(KeyRing(KEY))
    session, form = sessions.open(KEY), sessions.form_token("n")
    assert not sessions.is_form(session, "n") and not sessions.is_open(form)
    assert sessions.is_form(form, "n") and not sessions.is_form(form, "m") and not sessions.is_form(form, "")
    old = sessions.form_token("n", now=1000.0)
    assert sessions.is_form(old, "n", now=999.0 + FORM_SECONDS) and not sessions.is_form(
        old, "n", now=1000.0 + FORM_SECONDS
    )
    changed = session.replace(session.split(".")[0], str(2**40), 1)
    assert not sessions.is_open(changed)


# ---- in a browser


@pytest.mark.browser
def test_a_person_signs_in_looks_and_signs_out(window, world, log):
    from darl_opensearch.io.listening import listen

    service = Service(ServerConfig(threads=1, api_key=KEY), world.bundle, None, log)
    with listen("127.0.0.1", 0, todo="") as socket:
        app = create_scorer_app(service)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        view = window()
        sheet = view.open(f"http://127.0.0.1:{socket.getsockname()[1]}/ui")
        assert sheet.url.endswith("/ui/sign-in") and view.faults() == []
        sheet.keyboard.type("wrong")  # the field has the focus
        sheet.keyboard.press("Enter")
        sheet.get_by_role("alert").wait_for()
        view.errors.clear()  # Chromium reports the 401
        sheet.get_by_label("API key").fill(KEY)
        sheet.get_by_role("button", name="Sign in").click()
        sheet.locator("#chart-share canvas").wait_for()
        assert sheet.url.endswith("/ui") and view.faults() == []
        assert sheet.evaluate("document.cookie") == ""  # no script sees one
        sheet.get_by_role("button", name="Sign out").click()
        sheet.get_by_label("API key").wait_for()
        sheet.go_back()
        sheet.reload()
        assert sheet.url.endswith("/ui/sign-in")
        server.should_exit = True
        thread.join(10)
