"""The judge behind a chat endpoint: a real HTTP server answers, well and badly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import DarlError, GateRefused, UsageError
from darl_opensearch.scores import GradeScale
from tests.helpers.files import read_rows
from tests.helpers.judging import SCALE, completion, endpoint, job, knowing, project, silent, task
from trainer.judging import JUDGES, JudgeConfig
from trainer.judging.llm import KEY_VARIABLE
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.endpoint import complete_url, parse_reply
from trainer.judging.llm.limits import Budget, Pace, Prices
from trainer.judging.llm.prompt import DEFAULT, fill_prompt, read_prompt
from trainer.judging.llm.reply import Reply, Token, average_grades, read_grade, read_probs
from trainer.judging.prepare import prepare_judging
from trainer.judging.run import estimate, judge

STARS = GradeScale(("1", "2", "3", "4", "5"), (0.0, 1.0, 2.0, 3.0, 4.0))
TASKS = [task("bike", f"i{n}-{n % 3}", text=f"text of i{n}-{n % 3}") for n in range(8)]


def make(url: str, **params):
    fast = {"backoff_s": 0.001, "timeout_s": 20.0}
    maker, values = JUDGES.resolve("llm", {"url": url, "model": "m", **fast, **params})
    return maker(**values)


def grades(verdict):
    return [verdict.answers[""][t.task].grade if t.task in verdict.answers[""] else None for t in TASKS]


TRUTH = [n % 3 for n in range(8)]


# ---- the reply


@pytest.mark.parametrize(
    ("text", "found"),
    [("2", (2, 0)), (" 1.\n", (1, 1)), ("**2**", (2, 2)), ('{"grade": 1}', (1, 10)), ("Grade: 2", (2, 7)),
     ("The grade is 2 because", (2, 13)), ("fits", (2, 0)), ("I would say 1.", (1, 12)), ("2.0", (2, 0)),
     ("On a scale of 0 to 2 it is 1", None), ("7", None), ("", None), ("grade: 1 or grade: 2", None), ("no idea", None),
     ("1.5", None), ("-1", None), ("\u22121", None), ("grade: -1", None), ("I give it -1.", None), ("grade: 1.7", None),
     ("grade 1,5", None), ('{"grade": -2}', None), ("Grade (0-2): 1", None), ("grade 0 to 2", None), ("1-2", None),
     ("grade: 1 or 2", None), ("Grade - 2", (2, 8)), ("grade-2", (2, 6)), ("**Grade:** 2", (2, 11))],
)  # fmt: skip
def test_the_grade_in_a_reply(text, found):
    assert read_grade(text, SCALE) == found


def test_probabilities_are_those_at_the_grades_place():
    top = (("2", math.log(0.6)), (" 1", math.log(0.2)), ("A", math.log(0.1)), ("2 ", math.log(0.05)))
    reply = Reply("Grade: 2", (Token("Grade:", (("Grade:", 0.0),)), Token(" 2", top)), 1, 1)
    assert read_probs(reply, SCALE) == pytest.approx((0, 0.2 / 0.85, 0.65 / 0.85))
    stars = Reply("4", (Token("4", (("4", math.log(0.5)), ("5", math.log(0.5)))),), 1, 1)
    assert read_probs(stars, STARS) == pytest.approx((0, 0, 0, 0.5, 0.5))


@pytest.mark.parametrize(
    "reply",
    [
        Reply("2", None, 1, 1),
        Reply("unsure", (Token("unsure", (("2", 0.0),)),), 1, 1),
        Reply(
            "2", (Token("2", (("2", math.log(0.3)), ("A", math.log(0.7)))),), 1, 1
        ),  # most of it meant something else
        Reply("2", (Token("2", (("1", math.log(0.9)),)),), 1, 1),  # the token itself is not listed
        Reply("2", (Token("9", (("2", 0.0),)),), 1, 1),  # the tokens do not spell the text
    ],
)
def test_where_there_is_nothing_to_read(reply):
    assert read_probs(reply, SCALE) is None


@given(st.lists(st.integers(0, 4), min_size=1))
def test_averages_are_shares(said):
    probs = average_grades(said, 5)
    assert sum(probs) == pytest.approx(1.0) and all(probs[g] == said.count(g) / len(said) for g in range(5))


@given(st.binary(max_size=200) | st.text().map(str.encode) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "logprobs", "usage", "top_logprobs", "token"]), inner,
        max_size=3,
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_body_breaks_the_reader(data):
    reply = parse_reply(data)
    assert reply is None or isinstance(reply.text, str)


def test_odd_bodies_are_read_as_far_as_they_go():
    assert parse_reply(completion("2", usage=None)) == Reply("2", None, 0, 0)
    odd = json.loads(completion("2", {"2": 1.0}))
    for broken in ({}, {"content": None}, {"content": [{"token": "2"}]}, {"content": []}, "x"):
        odd["choices"][0]["logprobs"] = broken
        assert parse_reply(json.dumps(odd).encode()).tokens is None


@pytest.mark.parametrize("count", ["1e999", "-5", "1" + 30 * "0", '"many"', "NaN", "[]"])
def test_a_count_that_is_none_neither_breaks_nor_feeds_the_budget(count):
    assert parse_reply(completion("2").replace(b"100", count.encode())) == Reply("2", None, 0, 1)


def test_a_probability_that_no_float_holds_is_none():
    body = completion("2", {"2": 1.0}).replace(b'"logprob": 0.0, "bytes"', b'"logprob": -1' + 400 * b"0" + b', "bytes"')
    assert parse_reply(body).tokens is None


# ---- the prompt


def test_a_query_that_holds_a_placeholder_is_a_query(tmp_path):
    one = task("show {item} {guideline}", "i", text="{query}")
    assert fill_prompt("{query}|{item}|{grades}|{other}", one, SCALE, "G") == (
        "show {item} {guideline}|{query}|0 = irrelevant\n1 = related\n2 = fits|{other}"
    )
    assert "information_need" not in fill_prompt(DEFAULT, one, SCALE, "")
    needy = dataclasses.replace(one, information_need="wants {item} back")
    assert "<information_need>\nwants {item} back\n</information_need>\n<item>" in fill_prompt(
        DEFAULT, needy, SCALE, ""
    )
    assert fill_prompt("{information_need}|{query}", one, SCALE, "") == f"|{one.query}"
    assert "In doubt" in fill_prompt(DEFAULT, one, SCALE, "In doubt") and "1\n2\n3\n4\n5" in fill_prompt(
        DEFAULT, one, STARS, ""
    )
    (tmp_path / "p.txt").write_text("{query}")
    with pytest.raises(UsageError, match=r"p\.txt: the prompt has no \{item\}"):
        read_prompt(tmp_path / "p.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompt(tmp_path / "none.txt")


# ---- asking


def test_probabilities_become_answers(tmp_path):
    with endpoint(knowing) as server:
        verdict = make(server.url, price_in=1.0, price_out=10.0).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == TRUTH and not verdict.pending
    assert verdict.answers[""][TASKS[1].task].grade_probs == pytest.approx((0.1, 0.8, 0.1))
    assert len(server.asked) == 8 and set(server.paths) == {"/v1/chat/completions"} and set(server.keys) == {None}
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (
        "m", 0.0, True, 20, 16,
    )  # fmt: skip
    assert "In doubt the lower." in server.prompt(0) and "2 = fits" in server.prompt(0)
    counts = dict(verdict.counts)
    assert counts.pop("whole_work") == {"calls": 8, "prompt_tokens": 800, "completion_tokens": 8, "cost": 0.00088}
    assert counts == {
        "model": "m", "calls": 8, "cache_hits": 0, "prompt_tokens": 800, "completion_tokens": 8, "declined": 0,
        "unreadable": 0, "beyond_cap": 0, "retries": 0, "stopped_by": None, "cost": 0.00088,
    }  # fmt: skip


def test_the_model_is_told_nothing_but_the_pair(tmp_path):
    one = task("bike", "i-1", "text of i-1", arm="gold", slice="pets", other_fields={"score": 0.9371})
    with endpoint(knowing) as server:
        make(server.url).judge([one], job(tmp_path), silent)
    sent = json.dumps(server.asked)
    assert "bike" in sent and not any(secret in sent for secret in ("gold", "pets", "9371", one.task))


def test_answers_are_kept_and_asked_for_once(tmp_path):
    with endpoint(knowing) as server:
        first = make(server.url).judge(TASKS[:5], job(tmp_path), silent)
        again = make(server.url).judge(TASKS, job(tmp_path), silent)
        assert len(server.asked) == 8 and again.counts["cache_hits"] == 5
        assert {k: again.answers[""][k] for k in first.answers[""]} == first.answers[""]
        make(server.url, temperature=0.5).judge(TASKS[:1], job(tmp_path), silent)
        make(server.url, max_tokens=17).judge(TASKS[:1], job(tmp_path), silent)
        make(server.url).judge(TASKS[:1], job(tmp_path, guideline="Another."), silent)
        assert len(server.asked) == 11  # what the answer depends on is in the key
        shared = {"cache": "shared.sqlite"}
        make(server.url, **shared).judge(TASKS[:1], job(tmp_path), silent)
        (tmp_path / "other").mkdir()
        make(server.url, cache="../shared.sqlite").judge(TASKS[:1], job(tmp_path / "other"), silent)
    assert len(server.asked) == 12


def test_an_answer_is_kept_for_the_grades_that_it_was_read_by(tmp_path):
    (tmp_path / "p.txt").write_text("{query} {item} 0 to 3?")  # the grades are not in it
    four = GradeScale(("no", "hardly", "partly", "fully"), (0.0, 1.0, 2.0, 3.0))
    with endpoint(lambda body, n: (200, {}, completion("3", {"3": 0.9, "2": 0.1}))) as server:
        one = make(server.url, prompt="p.txt", cache="shared.sqlite", samples=1)
        said = one.judge(TASKS[:1], job(tmp_path, scale=four, label="a"), silent).answers[""]
        assert said[TASKS[0].task].grade == 3
        again = one.judge(TASKS[:1], job(tmp_path, scale=SCALE, label="b"), silent)
    assert not again.answers[""] and again.counts["unreadable"] == 1 and len(server.asked) == 2


def test_without_probabilities_answers_are_sampled_and_averaged(tmp_path):
    def answer(body, n):
        return 200, {}, completion("1" if body["temperature"] == 0.0 or n % 2 else "2")

    with endpoint(answer) as server:
        verdict = make(server.url, samples=4, concurrency=1).judge(TASKS[:2], job(tmp_path), silent)
    warm = [body["temperature"] for body in server.asked]
    assert warm == [0.0] + [1.0] * 8  # the first reply showed that there are none; nobody is asked for them again
    assert not any("logprobs" in body for body in server.asked[1:])
    answers = list(verdict.answers[""].values())
    assert answers[0].grade_probs == (0.0, 0.5, 0.5) and answers[0].grade == 1  # a tie goes to the lower


def test_one_sample_is_a_grade_alone(tmp_path):
    with endpoint(lambda body, n: (200, {}, completion("fits"))) as server:
        verdict = make(server.url, samples=1, logprobs="never").judge(TASKS[:2], job(tmp_path), silent)
    assert [a.grade for a in verdict.answers[""].values()] == [2, 2] and len(server.asked) == 2
    assert all(a.grade_probs is None for a in verdict.answers[""].values())
    assert all(body["temperature"] == 0.0 and "logprobs" not in body for body in server.asked)


def test_replies_without_a_grade_leave_the_pair_and_are_counted(tmp_path):
    def answer(body, n):
        return 200, {}, completion("As an AI I cannot" if "i0-0" in body["messages"][0]["content"] else "1")

    with endpoint(answer) as server:
        verdict = make(server.url, samples=2).judge(TASKS[:3], job(tmp_path), silent)
    assert len(verdict.answers[""]) == 2 and verdict.counts["unreadable"] == 1 and server.asked


@pytest.mark.parametrize(
    ("says", "gone", "there"),
    [
        ("'logprobs' is not supported with this model", {"logprobs", "top_logprobs"}, {"max_tokens"}),
        ("Unsupported parameter: use 'max_completion_tokens' instead", {"max_tokens"}, {"max_completion_tokens"}),
        ("Unsupported value: 'temperature' does not support 0.0", {"temperature"}, {"max_tokens"}),
    ],
)
def test_a_field_that_is_refused_is_left_out_or_renamed(tmp_path, says, gone, there):
    def answer(body, n):
        if gone & body.keys():
            return 400, {}, json.dumps({"error": {"message": says}}).encode()
        return knowing(body, n)

    with endpoint(answer) as server:
        verdict = make(server.url, concurrency=1).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == TRUTH and len(server.asked) == 9 and verdict.counts["declined"] == 0
    assert not gone & server.asked[-1].keys() and there <= server.asked[-1].keys()


def test_further_fields_are_sent(tmp_path):
    with endpoint(knowing) as server:
        make(server.url, extra='{"top_p": 0.5, "model": "other"}').judge(TASKS[:1], job(tmp_path), silent)
    assert server.asked[0]["top_p"] == 0.5 and server.asked[0]["model"] == "other"


# ---- failures


def test_a_host_that_only_the_client_finds_to_be_none(tmp_path):
    with pytest.raises(DarlError, match=r"http://bü_/v1/chat/completions: it cannot be called .*Correct llm\.url"):
        make("http://bü_/v1").judge(TASKS[:1], job(tmp_path), silent)


def test_what_cannot_be_unpacked_costs_a_pair_not_the_run(tmp_path):
    def answer(body, n):
        return (200, {"Content-Encoding": "gzip"}, b"no gzip") if n == 0 else knowing(body, n)

    with endpoint(answer) as server:
        verdict = make(server.url, retries=0, concurrency=1).judge(TASKS, job(tmp_path), silent)
    assert verdict.counts["declined"] == 1 and len(verdict.answers[""]) == len(TASKS) - 1


def test_who_drips_is_not_waited_for_without_end(tmp_path):
    def drip(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
            while not done.wait(0.05):
                connection.sendall(b" ")

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        with pytest.raises(DarlError, match="no complete answer within 0.3 s"):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            make(url, timeout_s=0.3, retries=0).judge(TASKS[:1], job(tmp_path), silent)
        done.set()
        thread.join()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(tmp_path, status):
    def answer(body, n):
        return (status, {"Retry-After": "0"}, b"busy") if n % 3 == 0 else knowing(body, n)

    with endpoint(answer) as server:
        verdict = make(server.url).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == TRUTH and verdict.counts["retries"] == len(server.asked) - 8 > 0


def test_retry_after_holds_everybody_up(tmp_path):
    times = []

    def answer(body, n):
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, b"slow down") if n == 0 else knowing(body, n)

    with endpoint(answer) as server:
        make(server.url, concurrency=1).judge(TASKS[:3], job(tmp_path), silent)
    assert len(server.asked) == 4 and times[1] - times[0] >= 0.4


def test_a_pause_that_is_too_long_is_an_error(tmp_path):
    with endpoint(lambda body, n: (429, {"Retry-After": "9000"}, b"quota")) as server:
        with pytest.raises(DarlError, match=r"it answers 429 \(quota\) and asks to wait 9000 s. Try again later"):
            make(server.url).judge(TASKS, job(tmp_path), silent)


def test_an_endpoint_that_stays_down_ends_it_and_keeps_what_there_is(tmp_path):
    def answer(body, n):
        return knowing(body, n) if n < 3 else (500, {}, b"<h1>oops</h1>")

    with endpoint(answer) as server:
        with pytest.raises(DarlError) as caught:
            make(server.url, retries=2, concurrency=1).judge(TASKS, job(tmp_path), silent)
        assert "it answers 500 (<h1>oops</h1>), 3 times in a row. Fix the endpoint" in str(caught.value)
        server.answer = knowing
        verdict = make(server.url).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == TRUTH and verdict.counts["cache_hits"] == 3


def test_nobody_there(tmp_path):
    with pytest.raises(
        DarlError, match=r"http://127.0.0.1:9/v1/chat/completions: it cannot be reached .*2 times in a r"
    ):
        make("http://127.0.0.1:9/v1", retries=1).judge(TASKS, job(tmp_path), silent)


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_will_not_pass_ends_at_once(tmp_path, status):
    with endpoint(lambda body, n: (status, {"Location": "http://127.0.0.1:9/"}, b"no")) as server:
        with pytest.raises(DarlError, match=rf"it answers {status} \(no\). Check URL, model and key"):
            make(server.url, concurrency=1).judge(TASKS, job(tmp_path), silent)
    assert len(server.asked) <= 2  # a redirect is not followed: the key would go along


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}']
)
def test_malformed_answers_are_tried_again_and_cost_a_pair_not_the_run(tmp_path, body):
    def answer(asked, n):
        return (200, {}, body) if "i1-1" in asked["messages"][0]["content"] else knowing(asked, n)

    with endpoint(answer) as server:
        verdict = make(server.url, retries=1).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == [0, None, *TRUTH[2:]]
    assert verdict.counts["declined"] == 1 and len(server.asked) == 9


def test_a_pair_that_is_refused_is_left_out_but_not_all_of_them(tmp_path):
    many = [task("bike", f"i{n}-{n % 3}", text=f"text of i{n}-{n % 3}") for n in range(30)]
    with endpoint(lambda body, n: (400, {}, b"content filter")) as server:
        with pytest.raises(
            DarlError, match=r"it answers 400 \(content filter\). No pair was answered: check the endpoint"
        ):
            make(server.url, concurrency=2).judge(many, job(tmp_path), silent)
    assert len(server.asked) < 20

    def answer(body, n):
        return (400, {}, b"content filter") if "i2-2" in body["messages"][0]["content"] else knowing(body, n)

    with endpoint(answer) as server:
        verdict = make(server.url).judge(TASKS, job(tmp_path), silent)
    assert grades(verdict) == [0, 1, None, *TRUTH[3:]] and verdict.counts["declined"] == 1


# ---- the key


def test_the_key_comes_from_its_variable_and_is_said_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(KEY_VARIABLE, "sk-s3cret")
    caplog.set_level(logging.DEBUG)
    with endpoint(lambda body, n: (401, {}, b'{"error": "Incorrect API key sk-s3cret"}')) as server:
        with pytest.raises(DarlError) as caught:
            make(server.url).judge(TASKS[:1], job(tmp_path), silent)
        assert server.keys == ["Bearer sk-s3cret"]
        assert "Incorrect API key ***" in str(caught.value)
        server.answer = knowing
        make(server.url).judge(TASKS[:1], job(tmp_path), silent)
    assert "s3cret" not in caplog.text
    kept = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"s3cret" not in kept


@pytest.mark.parametrize("key", ["sec\nret", "sec\x01ret", "sec\x7fret"])
def test_a_key_that_no_header_takes_is_not_quoted(tmp_path, monkeypatch, key):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(
        UsageError, match="the key holds a character that is not allowed in an HTTP header. Set it again"
    ) as caught:
        make("http://127.0.0.1:9/v1", retries=0).judge(TASKS[:1], job(tmp_path), silent)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"url": "ftp://x"}, "llm.url is 'ftp://x', not a URL"),
        ({"url": ""}, "llm.url is '', not a URL"),
        ({"url": "http://me:pw@host/v1"}, "llm.url holds a password. Set the variable DARL_JUDGE_KEY"),
        ({"url": "http://host:99999/v1"}, "not a URL"),
        ({"url": "http://me:pw@host:99999/v1"}, "llm.url holds a password"),
        ({"url": "http://a..b/v1"}, "llm.url is 'http://a..b/v1', not a URL"),
        ({"url": "http://xn--/v1"}, "llm.url is 'http://xn--/v1', not a URL"),
        ({"model": ""}, "llm.model is empty"),
        ({"cost_cap": 1.0}, "llm.cost_cap requires prices"),
        ({"extra": "[1]"}, "llm.extra is '[1]', not a JSON object"),
        ({"extra": "{"}, "llm.extra is '{', not a JSON object"),
        ({"prompt": "none.txt"}, "the prompt cannot be read"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path, params, message):
    with pytest.raises(UsageError) as caught:
        make(**{"url": "http://127.0.0.1:9/v1", **params}).judge(TASKS, job(tmp_path), silent)
    assert message in str(caught.value) and "pw" not in str(caught.value)


def test_urls():
    for url in ("http://h/v1", "http://h/v1/", "http://h/v1/chat/completions"):
        assert complete_url(url) == "http://h/v1/chat/completions"


# ---- limits


def test_no_more_than_the_budget_allows(tmp_path):
    prompt = len(fill_prompt(DEFAULT, TASKS[0], SCALE, "In doubt the lower.")) // 4 + 1

    def answer(body, n):  # as many tokens as were estimated
        grade = knowing(body, n)[2]
        told = json.loads(grade) | {"usage": {"prompt_tokens": prompt, "completion_tokens": 16}}
        return 200, {}, json.dumps(told).encode()

    with endpoint(answer) as server:
        cap = 3 * (prompt + 16)
        verdict = make(server.url, token_cap=cap).judge(TASKS, job(tmp_path), silent)
        assert len(verdict.answers[""]) == 3 == len(server.asked) and verdict.counts["stopped_by"] == "token_cap"
        assert verdict.notes == ("The token_cap was reached: 5 pairs were not sent to the model.",)
        assert verdict.counts["whole_work"]["prompt_tokens"] + verdict.counts["whole_work"]["completion_tokens"] <= cap
        again = make(server.url, token_cap=cap).judge(TASKS, job(tmp_path), silent)
        assert len(server.asked) == 3 and len(again.answers[""]) == 3  # what was spent before counts
        money = {"price_in": 1e6, "price_out": 0.0, "cost_cap": 5.0 * prompt}
        more = make(server.url, **money).judge(TASKS, job(tmp_path), silent)
        assert len(server.asked) == 5 and more.counts["stopped_by"] == "cost_cap"
        assert more.counts["whole_work"]["cost"] == 5.0 * prompt
        assert grades(make(server.url).judge(TASKS, job(tmp_path), silent)) == TRUTH


@pytest.mark.parametrize("probs", [True, False])
def test_what_was_paid_for_is_used_though_the_budget_is_gone(tmp_path, probs):
    def answer(body, n):
        return knowing(body, n) if probs else (200, {}, completion("1"))

    with endpoint(answer) as server:
        how = {"concurrency": 1, "samples": 2}
        first = make(server.url, **how).judge(TASKS[5:], job(tmp_path), silent)
        asked = len(server.asked)
        verdict = make(server.url, **how, token_cap=1).judge(TASKS, job(tmp_path), silent)
        assert verdict.answers == first.answers and len(server.asked) == asked
        assert verdict.counts["beyond_cap"] == 5 and verdict.counts["stopped_by"] == "token_cap"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30), st.integers(1, 300))
def test_a_budget_is_never_overdrawn_by_what_was_set_aside(requests, cap):
    budget, spent = Budget(cap, 0.0, Prices(0, 0)), 0
    for sent, received in requests:
        if not budget.take(sent, received):
            spent += sent + received
            budget.settle((sent, received), sent, received)
        else:
            assert spent + sent + received > cap
    assert spent <= cap


def test_the_pace_is_kept():
    pace, stop = Pace(1200), threading.Event()  # one each .05 s
    begun = time.monotonic()
    threads = [threading.Thread(target=pace.wait, args=(stop,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun >= 4 * 0.05


def test_so_many_at_a_time(tmp_path):
    def answer(body, n):
        time.sleep(0.03)
        return knowing(body, n)

    with endpoint(answer) as server:
        make(server.url, concurrency=3).judge(TASKS, job(tmp_path), silent)
    assert 1 < server.most <= 3


# ---- from end to end


def test_gold_is_asked_first_and_a_bad_model_is_never_paid_for_the_rest(tmp_path):
    project(tmp_path)

    def wrong(body, n):
        grade = (json.loads(knowing(body, n)[2])["choices"][0]["message"]["content"] == "0") + 0
        return 200, {}, completion(str(grade), {str(grade): 0.9, "2": 0.1})

    def run(url):
        config = JudgeConfig(
            judges=("llm",), params={"llm": {"url": url, "model": "m", "backoff_s": 0.001}}, gold_pairs=30
        )
        where = {"scale": SCALE, "out": tmp_path / "out", "base": tmp_path, "guideline": ""}
        return config, where, judge(config, [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl", **where)

    with endpoint(wrong) as server:
        with pytest.raises(GateRefused, match="judge 'llm': kappa with gold is -"):
            run(server.url)
        assert len(server.asked) == 30 and all("gold" in server.prompt(n) for n in range(30))
    with endpoint(knowing) as server:
        config, where, report = run(server.url)
        assert report.labels == 12 and report.details["judges"][0]["counts"]["calls"] == 42
        assert read_rows(report.judgments)[0]["grade_probs"] == [0.8, 0.1, 0.1]
        ready = prepare_judging(config, [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl", **where)
        (known,) = estimate(ready, config)
        assert (known["pairs"], known["calls"], known["cache_hits"], known["cost"]) == (42, 0, 42, None)


def test_without_enough_gold_nothing_is_paid_for(tmp_path):
    project(tmp_path)
    with endpoint(knowing) as server:
        config = JudgeConfig(judges=("llm",), params={"llm": {"url": server.url, "model": "m"}}, gold_pairs=0)
        with pytest.raises(
            GateRefused, match="it graded 0 gold pairs of 0 queries; a score needs 20 pairs of 5 queries"
        ):
            judge(config, [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl", scale=SCALE, out=tmp_path / "out")
    assert not server.asked


def test_the_estimate_counts_calls_and_tokens(tmp_path):
    length = len(fill_prompt(DEFAULT, TASKS[0], SCALE, "In doubt the lower."))
    told = make("http://127.0.0.1:9/v1", price_in=2.0, price_out=4.0).foresee(TASKS, job(tmp_path))
    sent = 8 * (length // 4 + 1)
    assert told == {"calls": 8, "cache_hits": 0, "prompt_tokens": sent, "completion_tokens": 128,
                    "cost": round((2 * sent + 4 * 128) / 1e6, 6)}  # fmt: skip
    sampled = make("http://127.0.0.1:9/v1", logprobs="never", samples=3).foresee(TASKS, job(tmp_path))
    assert sampled["calls"] == 24 and sampled["cost"] is None and not list(tmp_path.iterdir())


def test_killed_in_the_middle_it_asks_for_nothing_twice(tmp_path):
    project(tmp_path)
    seen = threading.Event()

    def answer(body, n):
        if n >= 10:
            seen.set()
            time.sleep(0.05)
        return knowing(body, n)

    with endpoint(answer) as server:
        words = [sys.executable, "-m", "darl_opensearch", "judge", "tasks.jsonl", "--gold", "gold.jsonl", "--out",
                 "out", "--judge", "llm", "--grades", "irrelevant,related,fits", "--set", f"llm.url={server.url}",
                 "--set", "llm.model=m", "--set", "llm.concurrency=2", "--gold-pairs", "36"]  # fmt: skip
        root = str(Path(__file__).parents[2])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DARL_")} | {"PYTHONPATH": root}
        running = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert seen.wait(60)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        before = len(server.asked)
        server.answer = knowing
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) - before <= 48 - before + 2  # at most what was under way is asked again
    assert len(read_rows(tmp_path / "out" / "judgments.jsonl")) == 12


def test_a_full_disk_ends_it_with_what_to_do(tmp_path):
    cache = Cache(tmp_path / "llm.sqlite")
    cache._db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(DarlError, match=r"llm\.sqlite: the answer cache cannot be used .*full.*\. Free disk space"):
        for n in range(1000):
            cache.put(str(n), {"text": 900 * "x"})
    assert cache.get("0") == {"text": 900 * "x"}
    cache.close()
