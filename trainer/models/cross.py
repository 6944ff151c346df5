"""The cross backbone: query and item in one sequence with full attention (Nogueira and Cho 2019).

Meant for trained cross-encoders: their relevance logit is the first feature, so that the untrained model ranks as the
checkpoint does. It comes from a classifier of transformers, or from modules of sentence-transformers after the encoder,
such as Pooling, Dense, LayerNorm and Dense. For a checkpoint without either the first feature is the cosine of the mean
states of query and item, which ranks poorly: see ``docs/decisions/0014-cross-and-llm.md``.
"""

from __future__ import annotations

import dataclasses
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

from darl_opensearch.errors import UsageError
from darl_opensearch.graph_contract import MAX_TOKENS
from trainer.config import Config
from trainer.models.base import AVERAGE, BACKBONES, LAST, PairFeatures, average_layers
from trainer.models.checkpoint import CheckpointFiles
from trainer.models.framing import Prompts, apply_frame, copy_plain, read_frame, read_prompts, tokenise_prompt
from trainer.models.joint import JointReader, check_length
from trainer.models.modules import Modules, check_widths, read_modules
from trainer.models.pooling import CLS, MEAN, Projection, pool
from trainer.models.quiet import quiet
from trainer.models.sources import load_tokenizer, locate, prompt_not_pooled, unusable
from trainer.models.tracing import eager_attention

WEIGHTS = "encoder"  # folder of the transformers checkpoint within the model's
PROJECTION = "projection.safetensors"


@BACKBONES.register("cross", cite="Nogueira and Cho 2019, arXiv:1901.04085")
class CrossEncoder(JointReader):
    """Query and item in one sequence through an encoder.

    Features are the relevance and the mean of the last states; the mean, scaled to unit length, is also the pair's
    embedding.

    :param encoder: a sequence classifier with one or two labels, or a bare encoder.
    :param tokenizer: its tokenizer, with the bundle's pair template and truncation.
    :param scored: whether the encoder has a trained classifier.
    :param pooling: ``mean`` or ``cls``, which ``projection`` reads.
    :param include_prompt: whether a mean is over the prompt too.
    :param projection: layers after the pooling that compute one or two labels; without any, there are no such layers.
    :param prompts: texts whose tokens the template has.
    """

    def __init__(
        self,
        encoder: Any,
        tokenizer: Tokenizer,
        gains: tuple[float, ...],
        *,
        scored: bool,
        pooling: str = MEAN,
        include_prompt: bool = True,
        projection: Projection | None = None,
        prompts: Prompts | None = None,
        head: str = "cumulative",
    ) -> None:
        super().__init__(encoder, tokenizer, head, 1 + int(encoder.config.hidden_size), gains)
        self.scored, self.pooling, self.include_prompt = scored, pooling, include_prompt
        self.projection, self.prompts = projection or Projection(), prompts or Prompts()
        plain = copy_plain(tokenizer)
        self._prompt = len(tokenise_prompt(plain, self.prompts.query, key="query_prompt", alone=not include_prompt))
        parameters = inspect.signature(encoder.base_model.forward).parameters
        self._types = "token_type_ids" in parameters and getattr(encoder.config, "type_vocab_size", 0) > 1

    @classmethod
    def from_base(cls, config: Config, head: str) -> CrossEncoder:
        """Make an untrained model from the encoder ``[model] base``.

        :raises DarlError: if there is no such encoder, its modules or prompts cannot be taken over, or it computes more
            than two labels.
        """
        model = config.model
        if model.item_prompt:
            raise UsageError(
                "[model] item_prompt is not for the cross backbone",
                todo="remove it: a cross-encoder has a prompt before the query only",
            )
        encoder, scored, modules, prompts = _load(model.base, model.query_prompt)
        tokenizer = load_tokenizer(model.base, modules)
        frame = read_frame(tokenizer)
        plain = copy_plain(tokenizer.backend_tokenizer)
        prompt = tokenise_prompt(plain, prompts.query, key="query_prompt", alone=not modules.include_prompt)
        frame = dataclasses.replace(frame, before=frame.before + prompt)
        length = model.query_cap + model.item_cap + len(frame)
        check_length(length, encoder.config, reserved=_count_reserved_positions(encoder), most=MAX_TOKENS)
        return cls(
            encoder, apply_frame(plain, frame, length), config.grades.scale.gains, scored=scored,
            pooling=modules.pooling, include_prompt=modules.include_prompt,
            projection=modules.projection if modules.scores else None, prompts=prompts, head=head,
        ).eval()  # fmt: skip

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
        if self.scored or self.projection.steps:
            logits = out.logits.float() if self.scored else self.projection(self._pool(states, attention_mask))
            first = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        else:
            item = token_type_ids * attention_mask
            first = F.cosine_similarity(_mean(states, attention_mask - item), _mean(states, item), dim=1)
        averaged: tuple[Tensor, ...] = ()
        if layers == AVERAGE:
            layers_mean = _mean(average_layers(out.hidden_states).float(), attention_mask)
            averaged = (F.normalize(layers_mean, dim=1, eps=1e-9),)
        return PairFeatures(torch.cat([first[:, None], mean], dim=1), (F.normalize(mean, dim=1, eps=1e-9),), averaged)

    def _pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.cumsum(torch.ones_like(attention_mask), dim=1) - 1
        return pool(
            states, attention_mask.to(states), positions, pooling=self.pooling, prompt=self._prompt,
            include_prompt=self.include_prompt,
        )  # fmt: skip

    def encoder_parameters(self) -> list[Any]:
        """List the parameters of the encoder, its classifier and the layers after its pooling."""
        return [*self.encoder.parameters(), *self.projection.parameters()]

    def exporting(self) -> AbstractContextManager[None]:
        """Use eager attention while the context is open."""
        return eager_attention(self.encoder)

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        self.encoder.save_pretrained(folder / WEIGHTS)
        if self.projection.steps:
            save_file({n: t.contiguous() for n, t in self.projection.state_dict().items()}, folder / PROJECTION)
        facts = {
            "backbone": "cross", "scored": self.scored, "pooling": self.pooling, "include_prompt": self.include_prompt,
            "projection": self.projection.steps, "prompts": dataclasses.asdict(self.prompts),
        }  # fmt: skip
        self._save_parts(folder, facts)

    @classmethod
    def load(cls, folder: Path, config: Config | None = None) -> CrossEncoder:
        """Load a model written by :meth:`save`."""
        from transformers import AutoModel, AutoModelForSequenceClassification

        facts = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        make = AutoModelForSequenceClassification if facts["scored"] else AutoModel
        with quiet():
            encoder = make.from_pretrained(folder / WEIGHTS)
        model = cls(
            _bare(encoder) if not facts["scored"] else encoder, Tokenizer.from_file(str(folder / "tokenizer.json")),
            tuple(facts["gains"]), scored=facts["scored"], pooling=facts.get("pooling", MEAN),
            include_prompt=facts.get("include_prompt", True), projection=Projection(facts.get("projection", ())),
            prompts=Prompts(**facts.get("prompts", {})), head=facts["head"],
        )  # fmt: skip
        if model.projection.steps:
            model.projection.load_state_dict(load_file(folder / PROJECTION))
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _load(name: str, query_prompt: str | None) -> tuple[Any, bool, Modules, Prompts]:
    """Load an encoder; also tell whether it has a trained classifier, of one or two labels."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    checkpoint = CheckpointFiles(locate(name), name)
    try:
        modules = read_modules(checkpoint)
        make = AutoModel if modules.scores else AutoModelForSequenceClassification
        with quiet():
            encoder, report = make.from_pretrained(checkpoint.where, subfolder=modules.folder, output_loading_info=True)
        prompts = read_prompts(checkpoint, query=query_prompt, pairs=True)
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    check_widths(modules, int(encoder.config.hidden_size), name)
    if modules.scores:
        _check_labels(modules.projection.width(0), name)
        if modules.pooling == CLS and not modules.include_prompt and prompts.query:
            raise prompt_not_pooled(name)
        return _bare(encoder), False, modules, prompts
    if not report["missing_keys"]:
        _check_labels(encoder.config.num_labels, name)
        return encoder, True, modules, prompts
    if modules.pooling != MEAN or modules.projection.steps:
        raise checkpoint.refuse(
            "its modules embed a text, and this backbone would not apply them", "modules.json",
            todo='set [model] backbone = "split", or choose a cross-encoder',
        )  # fmt: skip
    return _bare(encoder.base_model), False, modules, prompts


def _check_labels(labels: int, name: str) -> None:
    if labels > 2:
        raise UsageError(
            f"its classifier has {labels} labels, and relevance needs one or two",
            where=name,
            todo="choose a cross-encoder trained for ranking, or the bare encoder",
        )


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
