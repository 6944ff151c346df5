"""A language model's prompt as a pair template, and the first tokens of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darl_opensearch.errors import UsageError
from trainer.models.framing import Frame

QUERY, ITEM, GRADES = "{query}", "{item}", "{grades}"
# Every tokenizer in use begins a new word after a line break. So with a line break before each text, its tokens are the
# same whether it is tokenised alone, as for the pair template, or within the prompt.
DEFAULT = """Judge how well an item answers a search query.
Grades, from the worst to the best: {grades}.
Query:
{query}
Item:
{item}
Answer with one grade and nothing else.
Grade:"""


def split_prompt(prompt: str, grades: Sequence[str], tokenizer: Any, *, chat: bool) -> tuple[str, str, str]:
    """Split a prompt into the texts before the query, between query and item, and after the item.

    :param prompt: with ``{query}``, then ``{item}``, and optionally ``{grades}``.
    :param grades: names of the grades, lowest first.
    :param chat: put it as a user's message into the model's chat template, if it has one.
    :raises UsageError: if query or item are missing, repeated, or in the wrong order.
    """
    if prompt.count(QUERY) != 1 or prompt.count(ITEM) != 1 or prompt.index(QUERY) > prompt.index(ITEM):
        raise UsageError("[llm] prompt must hold {query} once and {item} once after it", todo="add what is missing")
    text = prompt.replace(GRADES, ", ".join(grades))
    if chat and getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": text}]
        # Reasoning is turned off, because the grade is read at the next token.
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    before, _, remainder = text.partition(QUERY)
    between, _, after = remainder.partition(ITEM)
    return before, between, after


def tokenise_frame(parts: tuple[str, str, str], tokenizer: Any, *, chat: bool) -> Frame:
    """Tokenise the parts of a prompt.

    :param parts: from :func:`split_prompt`.
    :param chat: whether they come from a chat template, which has its own first token.
    """
    before, between, after = (tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts)
    special = tokenizer("")["input_ids"]
    templated = chat and getattr(tokenizer, "chat_template", None)
    first = tuple(special[:1]) if special and special[0] == tokenizer.bos_token_id and not templated else ()
    return Frame(first + before, between, after)


def find_first_tokens(words: Sequence[str], after: str, tokenizer: Any) -> list[int]:
    """Find the first token of each grade's word after the prompt.

    :param after: the end of the prompt.
    :raises UsageError: if two words begin with the same token, or one is empty.
    """
    glue = "" if not after or after[-1].isspace() else " "
    prompt = tokenizer(after, add_special_tokens=False)["input_ids"]
    words_by_token: dict[int, str] = {}
    for word in words:
        ids = tokenizer(after + glue + word, add_special_tokens=False)["input_ids"]
        start = next(
            (n for n, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids))
        )
        if not word.strip() or len(ids) == start:
            raise UsageError(f"[llm] grade_words holds {word!r}, which has no token", todo="give a word for each grade")
        if (token := ids[start]) in words_by_token:
            raise UsageError(
                f"the grade words {words_by_token[token]!r} and {word!r} both begin with the token "
                f"{tokenizer.convert_ids_to_tokens(token)!r}",
                todo="give words that begin differently in [llm] grade_words, such as A, B, C",
            )
        words_by_token[token] = word
    return list(words_by_token)
