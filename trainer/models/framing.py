"""The pair template: the tokens around query and item in a sequence, with the base's prompts.

It is stored in ``tokenizer.json``, which training, scorer, export and ML Commons share. Truncation happens before it is
applied, so the template's own tokens are never cut, and caps do not count them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, processors

from darl_opensearch.errors import UsageError
from trainer.models.checkpoint import MODEL_CONFIG, CheckpointFiles, quote

QUERY_NAMES, ITEM_NAMES = ("query",), ("document", "passage", "corpus")
# Beginnings of texts: each must have the same tokens after a prompt as alone.
BEGINNINGS = ("a", "theft of a bike", "The", "1st", "(x)", "-", "«é", "ß", "自転車", "страхование", "🚲")


@dataclass(frozen=True)
class Frame:
    """Token ids around the two texts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        """Count the frame's tokens."""
        return len(self.before) + len(self.between) + len(self.after)


def read_frame(tokenizer: Any) -> Frame:
    """Read the frame of a checkpoint's own tokenizer, such as ``[CLS]``, ``[SEP]`` and ``[SEP]``."""
    encoding = tokenizer("a", "b")
    sides = encoding.sequence_ids(0)
    first, second = sides.index(0), sides.index(1)
    end = len(sides) - sides[::-1].index(1)
    gap = len(sides) - sides[::-1].index(0)
    ids = encoding["input_ids"]
    frame = Frame(tuple(ids[:first]), tuple(ids[gap:second]), tuple(ids[end:]))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if not frame.between and cls is not None and sep is not None:  # a template for single texts only
        return Frame((cls,), (sep,), (sep,))
    return frame


def apply_frame(tokenizer: Tokenizer, frame: Frame, max_length: int) -> Tokenizer:
    """Copy a tokenizer, with the frame as pair template, with truncation and without padding.

    Type ids are 0 up to the item and 1 from its first token on, even if the encoder does not read them, because they
    mark where the item is.

    :param max_length: maximum tokens per pair, including the frame.
    """
    pair = copy_plain(tokenizer)
    names = {"before": frame.before, "between": frame.between, "after": frame.after}
    start, middle, end = (f"{name}:{side} " if names[name] else "" for name, side in zip(names, (0, 0, 1), strict=True))
    pair.post_processor = processors.TemplateProcessing(
        single=f"{start}$A:0 {end.replace(':1', ':0')}".strip(),
        pair=f"{start}$A:0 {middle}$B:1 {end}".strip(),
        special_tokens=_pieces(pair, names),
    )
    pair.enable_truncation(max_length, strategy="longest_first")
    return pair


@dataclass(frozen=True)
class Prompts:
    """Texts that the base expects before query and item; ``""`` for none."""

    query: str = ""
    item: str = ""


def read_prompts(
    checkpoint: CheckpointFiles, *, query: str | None = None, item: str | None = None, pairs: bool = False
) -> Prompts:
    """Read the prompts that the base was trained with.

    :param query: ``[model] query_prompt``, which overrides the base's.
    :param item: ``[model] item_prompt``, which overrides the base's.
    :param pairs: of a cross-encoder: sentence-transformers puts the default prompt before the query, and no other.
    :raises UsageError: if the base has prompts, and which of them is the query's or the item's cannot be told.
    """
    settings = checkpoint.read(MODEL_CONFIG) or {}
    listed, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if default is not None and default not in listed:
        raise checkpoint.refuse(f"default_prompt_name is {default!r}, and there is no such prompt", MODEL_CONFIG)
    prompts = {name: str(text) for name, text in listed.items() if text}
    if pairs:
        if query is None and default is None:
            query = _choose_prompt(checkpoint, prompts, (), (), "query_prompt")
        return Prompts(listed[default] if query is None else query)
    if query is None:
        query = _choose_prompt(checkpoint, prompts, QUERY_NAMES, ITEM_NAMES, "query_prompt")
    if item is None:
        item = _choose_prompt(checkpoint, prompts, ITEM_NAMES, QUERY_NAMES, "item_prompt")
    return Prompts(query, item)


def _choose_prompt(
    checkpoint: CheckpointFiles, prompts: Mapping[str, str], names: Sequence[str], other: Sequence[str], key: str
) -> str:
    """Choose the prompt with one of some names; without one, all must have a name of the other half."""
    found = {name: prompts[name] for name in names if name in prompts}
    todo = f"set [model] {key} to the right one, or to an empty string for none"
    if len(set(found.values())) > 1:
        raise checkpoint.refuse(f"prompts {quote(found)} differ", MODEL_CONFIG, todo=todo)
    if not found and any(name not in other for name in prompts):
        half = key.removesuffix("_prompt")
        raise checkpoint.refuse(
            f"none of the prompts {quote(prompts)} is named as the {half}'s", MODEL_CONFIG, todo=todo
        )
    return next(iter(found.values()), "")


def tokenise_prompt(tokenizer: Tokenizer, prompt: str, *, key: str, alone: bool = False) -> tuple[int, ...]:
    """Tokenise a prompt as it is before a text.

    :param tokenizer: without truncation and padding.
    :param key: that sets the prompt, for errors.
    :param alone: also require these tokens to be those of the prompt alone, by which sentence-transformers measures it.
    :raises UsageError: if texts have other tokens after the prompt than alone, so that no template can hold it.
    """
    if not prompt:
        return ()

    def tokenise(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    first = tokenise(prompt + BEGINNINGS[0])
    ids = first[: len(first) - len(tokenise(BEGINNINGS[0]))]
    changed = not ids or any(tokenise(prompt + text) != ids + tokenise(text) for text in BEGINNINGS)
    if changed or (alone and tokenise(prompt) != ids):
        why = (
            "texts have other tokens after it than alone" if changed else "it has other tokens alone than before a text"
        )
        raise UsageError(
            f"the prompt {prompt!r} cannot be part of the pair template: with this tokenizer {why}",
            where=f"[model] {key}", todo=f"set {key} to an empty string for none, or choose another base",
        )  # fmt: skip
    return tuple(ids)


def make_half_template(
    tokenizer: Tokenizer, cls: str, sep: str, prompts: Sequence[tuple[int, ...]], *, caps: int
) -> Tokenizer:
    """Copy a tokenizer, with the split backbone's pair template, with truncation and without padding.

    Without the second CLS the item half's embedding would not be the bi-encoder's.

    :param prompts: token ids of the query's prompt and of the item's.
    :param caps: maximum tokens of query and item together, without the template's.
    """
    pair = copy_plain(tokenizer)
    named = dict(zip(("query_prompt", "item_prompt"), prompts, strict=True))
    query, item = (f" {name}:{side}" if ids else "" for side, (name, ids) in enumerate(named.items()))
    pair.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0{query} $A:0 {sep}:0 {cls}:1{item} $B:1 {sep}:1",
        special_tokens=[*((t, pair.token_to_id(t)) for t in (cls, sep)), *_pieces(pair, named)],
    )
    pair.enable_truncation(caps + pair.num_special_tokens_to_add(True), strategy="longest_first")
    return pair


def copy_plain(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer, without truncation and padding."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()  # a fixed padding in the file would make every pair that long
    return plain


def _pieces(tokenizer: Tokenizer, named: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Describe the parts of a template that have tokens."""
    return [
        {"id": name, "ids": list(ids), "tokens": [tokenizer.id_to_token(i) for i in ids]}
        for name, ids in named.items()
        if ids
    ]
