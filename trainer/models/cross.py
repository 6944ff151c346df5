"""The cross backbone: query and item in one sequence with full attention (Nogueira and Cho 2019).

Meant for trained cross-encoders: their relevance logit is the first feature, so that the untrained model ranks as the
checkpoint does. For a checkpoint without a trained classifier the first feature is the cosine of the mean states of
query and item, which ranks poorly: see ``docs/decisions/0014-cross-and-llm.md``.
"""

from __future__ import annotations

import inspect
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.errors import UsageError
from trainer.config import Config
from trainer.models.base import AVERAGE, BACKBONES, LAST, PairFeatures, average_layers
from trainer.models.framing import apply_frame, read_frame
from trainer.models.joint import JointReader, check_length
from trainer.models.sources import load_tokenizer, locate, quiet, unusable
from trainer.models.tracing import eager_attention

WEIGHTS = "encoder"  # folder of the transformers checkpoint within the model's


@BACKBONES.register("cross", cite="Nogueira and Cho 2019, arXiv:1901.04085")
class CrossEncoder(JointReader):
    """Query and item in one sequence through an encoder.

    Features are the relevance and the mean of the last states; the mean, scaled to unit length, is also the pair's
    embedding.

    :param encoder: a sequence classifier with one or two labels, or a bare encoder.
    :param tokenizer: its tokenizer, with the bundle's pair template and truncation.
    :param scored: whether the encoder has a trained classifier.
    """

    def __init__(
        self, encoder: Any, tokenizer: Tokenizer, gains: tuple[float, ...], *, scored: bool, head: str = "cumulative"
    ) -> None:
        super().__init__(encoder, tokenizer, head, 1 + int(encoder.config.hidden_size), gains)
        self.scored = scored
        parameters = inspect.signature(encoder.base_model.forward).parameters
        self._types = "token_type_ids" in parameters and getattr(encoder.config, "type_vocab_size", 0) > 1

    @classmethod
    def from_base(cls, config: Config, head: str) -> CrossEncoder:
        """Make an untrained model from the encoder ``[model] base``.

        :raises DarlError: if there is no such encoder, or its classifier has more than two labels.
        """
        model = config.model
        tokenizer = load_tokenizer(model.base)
        encoder, scored = _load(model.base)
        frame = read_frame(tokenizer)
        length = model.query_cap + model.item_cap + len(frame)
        check_length(length, encoder.config, reserved=_count_reserved_positions(encoder))
        pair = apply_frame(tokenizer.backend_tokenizer, frame, length)
        return cls(encoder, pair, config.grades.scale.gains, scored=scored, head=head).eval()

    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass."""
        pad = self.encoder.config.pad_token_id or 0
        # Some encoders number positions by non-padding tokens, and bundles pad with 0.
        inputs = {
            "input_ids": input_ids * attention_mask + pad * (1 - attention_mask),
            "attention_mask": attention_mask,
        }
        if self._types:
            inputs["token_type_ids"] = token_type_ids
        out = self.encoder(**inputs, output_hidden_states=self.scored or layers == AVERAGE)
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
            layers_mean = _mean(average_layers(out.hidden_states).float(), attention_mask)
            averaged = (F.normalize(layers_mean, dim=1, eps=1e-9),)
        return PairFeatures(torch.cat([first[:, None], mean], dim=1), (F.normalize(mean, dim=1, eps=1e-9),), averaged)

    def encoder_parameters(self) -> list[Any]:
        """List the encoder's parameters, including its classifier's."""
        return list(self.encoder.parameters())

    def exporting(self) -> AbstractContextManager[None]:
        """Use eager attention while the context is open."""
        return eager_attention(self.encoder)

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        self.encoder.save_pretrained(folder / WEIGHTS)
        self._save_parts(folder, {"backbone": "cross", "scored": self.scored})

    @classmethod
    def load(cls, folder: Path) -> CrossEncoder:
        """Load a model written by :meth:`save`."""
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
    """Load an encoder; also tell whether it has a trained classifier, of one or two labels."""
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet():
            encoder, report = AutoModelForSequenceClassification.from_pretrained(locate(name), output_loading_info=True)
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
    """Remove the pooler, which is not used."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def _count_reserved_positions(encoder: Any) -> int:
    """Count the positions that encoders like RoBERTa reserve for padding."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Average the states of masked tokens, ``[n, h]``; 0 without tokens."""
    weight = mask.to(states)
    return torch.bmm(weight[:, None, :], states).squeeze(1) / weight.sum(1, keepdim=True).clamp_min(1.0)
