"""The cross backbone: query and item in one sequence, every token seeing every other (Nogueira and Cho 2019).

For who has a real cross-encoder: its relevance logit is the first feature, so that the untrained model ranks as the
checkpoint does. A checkpoint without a trained classifier has none; its first feature is then the cosine of the mean
states of query and item, which is a weak ranker: see ``docs/decisions/0014-cross-and-llm.md``.
"""

from __future__ import annotations

import inspect
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.errors import InputError, UsageError
from trainer.config import Config
from trainer.models.base import AVERAGE, BACKBONES, LAST, PairFeatures, layer_mean
from trainer.models.framing import frame_of, framed
from trainer.models.joint import JointReader, check_length
from trainer.models.sources import load_tokenizer, located, quiet, unusable
from trainer.models.tracing import eager_attention

WEIGHTS = "encoder"  # folder of the transformers checkpoint inside ours


@BACKBONES.register("cross", cite="Nogueira and Cho 2019, arXiv:1901.04085")
class CrossEncoder(JointReader):
    """Query and item in one sequence through an encoder.

    Features are the relevance and the mean of the last states; the mean, at unit length, is also the pair's
    embedding.

    :param encoder: a sequence classifier of one or two labels, or a bare encoder.
    :param tokenizer: its tokenizer, with the pair template and truncation of the bundle.
    """

    def __init__(
        self, encoder: Any, tokenizer: Tokenizer, gains: tuple[float, ...], *, scored: bool, head: str = "cumulative"
    ) -> None:
        super().__init__(encoder, tokenizer, head, 1 + int(encoder.config.hidden_size), gains)
        self.scored = scored
        body = encoder.base_model
        takes = inspect.signature(body.forward).parameters
        self._types = "token_type_ids" in takes and getattr(encoder.config, "type_vocab_size", 0) > 1

    @classmethod
    def from_base(cls, config: Config, head: str) -> CrossEncoder:
        """Start from the encoder that ``[model] base`` names.

        :raises DarlError: when there is no such encoder, or it has more labels than a relevance needs.
        """
        name, model = config.model.base, config.model
        tokenizer = load_tokenizer(name)
        if not tokenizer.is_fast:
            raise InputError("it has no fast tokenizer", where=name, todo="choose another base")
        encoder, scored = _load(name)
        frame = frame_of(tokenizer)
        length = model.query_cap + model.item_cap + len(frame)
        check_length(length, encoder.config, taken=_positions_taken(encoder))
        pair = framed(tokenizer.backend_tokenizer, frame, length)
        return cls(encoder, pair, config.grades.scale.gains, scored=scored, head=head).eval()

    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass."""
        pad = self.encoder.config.pad_token_id or 0
        # Some encoders count positions by what is not padding, and padding is 0 in every bundle.
        fed = {"input_ids": input_ids * attention_mask + pad * (1 - attention_mask), "attention_mask": attention_mask}
        if self._types:
            fed["token_type_ids"] = token_type_ids
        out = self.encoder(**fed, output_hidden_states=self.scored or layers == AVERAGE)
        states = (out.hidden_states[-1] if self.scored else out.last_hidden_state).float()
        mean = _mean(states, attention_mask)
        if self.scored:
            logits = out.logits.float()
            first = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        else:
            item = token_type_ids * attention_mask
            first = F.cosine_similarity(_mean(states, attention_mask - item), _mean(states, item), dim=1)
        averaged: tuple[Tensor, ...] = ()
        if layers == AVERAGE:
            over = _mean(layer_mean(out.hidden_states).float(), attention_mask)
            averaged = (F.normalize(over, dim=1, eps=1e-9),)
        return PairFeatures(torch.cat([first[:, None], mean], dim=1), (F.normalize(mean, dim=1, eps=1e-9),), averaged)

    def encoder_parameters(self) -> list[Any]:
        """The encoder's parameters, its classifier's included."""
        return list(self.encoder.parameters())

    def exporting(self) -> AbstractContextManager[None]:
        """Compute by operations that a tracer can follow, for as long as the context is open."""
        return eager_attention(self.encoder)

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        self.encoder.save_pretrained(folder / WEIGHTS)
        save_file({n: t.contiguous() for n, t in self.head.state_dict().items()}, folder / "head.safetensors")
        config = {"backbone": "cross", "head": self.head_name, "gains": list(self.gains), "scored": self.scored}
        (folder / "backbone.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        self._tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path) -> CrossEncoder:
        """Read what :meth:`save` wrote."""
        from transformers import AutoModel, AutoModelForSequenceClassification

        config = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        make = AutoModelForSequenceClassification if config["scored"] else AutoModel
        with quiet():
            encoder = make.from_pretrained(folder / WEIGHTS)
        model = cls(
            _bare(encoder) if not config["scored"] else encoder, Tokenizer.from_file(str(folder / "tokenizer.json")),
            tuple(config["gains"]), scored=config["scored"], head=config["head"],
        )  # fmt: skip
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _load(name: str) -> tuple[Any, bool]:
    """An encoder, and whether it comes with a trained classifier of one or two labels."""
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet():
            encoder, report = AutoModelForSequenceClassification.from_pretrained(
                located(name), output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    if report["missing_keys"]:
        return _bare(encoder.base_model), False
    if encoder.config.num_labels > 2:
        raise UsageError(
            f"its classifier has {encoder.config.num_labels} labels, and relevance needs one or two",
            where=name,
            todo="choose a cross-encoder trained for ranking, or the bare encoder",
        )
    return encoder, True


def _bare(encoder: Any) -> Any:
    """Without the pooler, which nothing reads."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def _positions_taken(encoder: Any) -> int:
    """Positions that RoBERTa and its kin keep for padding."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """``[n, h]`` mean of the states of some tokens; 0 where there are none."""
    weight = mask.to(states)
    return torch.bmm(weight[:, None, :], states).squeeze(1) / weight.sum(1, keepdim=True).clamp_min(1.0)
