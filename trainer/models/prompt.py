"""The prompt of a language model as a pair template, and the tokens its answers begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darl_opensearch.errors import UsageError
from trainer.models.framing import Frame

QUERY, ITEM, GRADES = "{query}", "{item}", "{grades}"
# A line break before each text: there every tokenizer in use begins a new word, so that a text's tokens are the same
# whether it is tokenised alone, as the pair template does, or as part of the whole prompt.
DEFAULT = """Judge how well an item answers a search query.
Grades, from the worst to the best: {grades}.
Query:
{query}
Item:
{item}
Answer with one grade and nothing else.
Grade:"""


def pieces(prompt: str, grades: Sequence[str], tokenizer: Any, *, chat: bool) -> tuple[str, str, str]:
    """Cut a prompt at its two texts.

    :param prompt: with ``{query}``, then ``{item}``, and where wanted ``{grades}``.
    :param grades: names of the grades, lowest first.
    :param chat: put it as a user's message into the model's chat template, where it has one.
    :return: texts before the query, between query and item, and after the item.
    :raises UsageError: when a text is missing, there twice, or in the wrong order.
    """
    if prompt.count(QUERY) != 1 or prompt.count(ITEM) != 1 or prompt.index(QUERY) > prompt.index(ITEM):
        raise UsageError("[llm] prompt must hold {query} once and {item} once after it", todo="add what is missing")
    text = prompt.replace(GRADES, ", ".join(grades))
    if chat and getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": text}]
        # Models that think first are told not to: the grade is read at the very next token.
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    before, _, rest = text.partition(QUERY)
    between, _, after = rest.partition(ITEM)
    return before, between, after


def frame_of_prompt(parts: tuple[str, str, str], tokenizer: Any, *, chat: bool) -> Frame:
    """Tokenise the pieces of a prompt.

    :param parts: from :func:`pieces`.
    :param chat: whether they come from a chat template, which has its own first token.
    """
    before, between, after = (tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts)
    alone = tokenizer("")["input_ids"]
    templated = chat and getattr(tokenizer, "chat_template", None)
    first = tuple(alone[:1]) if alone and alone[0] == tokenizer.bos_token_id and not templated else ()
    return Frame(first + before, between, after)


def first_tokens(words: Sequence[str], after: str, tokenizer: Any) -> list[int]:
    """Token that each grade's word begins with, where the prompt ends.

    :param after: text before the word, the end of the prompt.
    :raises UsageError: when two words begin with the same token, or one is empty.
    """
    glue = "" if not after or after[-1].isspace() else " "
    prompt = tokenizer(after, add_special_tokens=False)["input_ids"]
    words_by_token: dict[int, str] = {}
    for word in words:
        ids = tokenizer(after + glue + word, add_special_tokens=False)["input_ids"]
        same = next(
            (n for n, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids))
        )
        if not word.strip() or len(ids) == same:
            raise UsageError(f"[llm] grade_words holds {word!r}, which has no token", todo="give a word for each grade")
        if (token := ids[same]) in words_by_token:
            raise UsageError(
                f"the grade words {words_by_token[token]!r} and {word!r} both begin with the token "
                f"{tokenizer.convert_ids_to_tokens(token)!r}",
                todo="give words that begin differently in [llm] grade_words, such as A, B, C",
            )
        words_by_token[token] = word
    return list(words_by_token)
