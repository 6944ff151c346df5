"""The pair template: the tokens around query and item in a sequence.

It is stored in ``tokenizer.json``, which training, scorer and export share. Truncation happens before it is applied, so
the template's own tokens are never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, processors


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
    pair = Tokenizer.from_str(tokenizer.to_str())
    names = {"before": frame.before, "between": frame.between, "after": frame.after}
    pieces = [
        {"id": name, "ids": list(ids), "tokens": [pair.id_to_token(i) for i in ids]}
        for name, ids in names.items()
        if ids
    ]
    start, middle, end = (f"{name}:{side} " if names[name] else "" for name, side in zip(names, (0, 0, 1), strict=True))
    pair.post_processor = processors.TemplateProcessing(
        single=f"{start}$A:0 {end.replace(':1', ':0')}".strip(),
        pair=f"{start}$A:0 {middle}$B:1 {end}".strip(),
        special_tokens=pieces,
    )
    pair.enable_truncation(max_length, strategy="longest_first")
    pair.no_padding()  # a fixed padding in the file would make every pair that long
    return pair
