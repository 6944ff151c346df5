"""Laws of the guards."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.cluster import guards
from tests.helpers.bundles import tiny_tokenizer

TEXT = st.text(st.one_of(st.sampled_from('"\\[]{}$ \n\t'), st.characters(codec="utf-8")), max_size=40)
TOKENIZER = tiny_tokenizer(["some words to make a vocabulary of"], 64)


@given(TEXT)
def test_local_is_a_json_string_of_the_text(text):
    guarded = guards.guard_for_local(text)
    assert json.loads(f'"{guarded}"') == text
    assert "$" not in guarded


@given(TEXT)
def test_connector_is_never_json_and_has_no_placeholder(text):
    guarded = guards.guard_for_connector(text)
    assert guarded.replace(guards.ZERO_WIDTH_SPACE, "") == text.replace(guards.ZERO_WIDTH_SPACE, "")
    assert "${" not in guarded
    assert guarded.lstrip()[:1] not in ("[", "{")
    assert TOKENIZER.encode(guarded).ids == TOKENIZER.encode(text).ids  # the model does not see it


@given(TEXT)
def test_query_path_keeps_the_words(text):
    guarded = guards.guard_for_query_path(text)
    json.loads(f'"{guarded}"')  # pasted into quotes, it is one string
    assert "${" not in guarded


def test_plain_text_is_left_alone():
    for guard in (guards.guard_for_local, guards.guard_for_connector, guards.guard_for_query_path, guards.guard_item):
        assert guard("red shoes, size 42 – été 中文") == "red shoes, size 42 – été 中文"
