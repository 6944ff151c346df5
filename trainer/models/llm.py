"""The llm backbone: a decoder reads a prompt with query and item, and the head grades its last state.

The head is initialised with the language model's output rows of the grade words, so that the untrained model is a
zero-shot judge (Zhuang et al. 2024, arXiv:2310.14122): with the nominal head its probabilities are exactly the softmax
of the model's logits over those words. Training changes LoRA adapters and the head.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.errors import UsageError
from trainer.config import Config, Lora
from trainer.models import lora
from trainer.models.base import AVERAGE, BACKBONES, LAST, FeatureTable, PairFeatures, average_layers
from trainer.models.framing import apply_frame
from trainer.models.joint import JointReader, check_length
from trainer.models.prompt import DEFAULT, find_first_tokens, split_prompt, tokenise_frame
from trainer.models.quiet import quiet
from trainer.models.sources import load_tokenizer, locate, unusable
from trainer.models.tracing import eager_attention

WEIGHTS = "encoder"  # folder of the transformers checkpoint within the model's
PROMPT = ("prompt", "chat", "grade_words")  # keys of [llm] that its tokenizer and head are made from


@BACKBONES.register("llm", cite="Zhuang et al. 2024, arXiv:2310.14122; LoRA: Hu et al. 2021, arXiv:2106.09685")
class LlmReranker(JointReader):
    """A decoder's last state, graded from the output rows of the grade words; trained by LoRA.

    Attention is causal and padding is on the right, so the last state needs no padding mask and does not depend on the
    other pairs of a pass.

    Frozen weights are cast once, not in every pass: autocast does not cache casts of weights without gradient, and
    would keep a bfloat16 copy of them for each pass of a step. On a GPU they are bfloat16 in training; on the CPU, a
    bfloat16 copy takes their place under autocast. Feature tables are computed in float32, as in the exported graph,
    except under autocast.

    :param encoder: the decoder without its output layer.
    :param tokenizer: its tokenizer, with the prompt as pair template and the bundle's truncation.
    :param adapters: table ``[lora]``.
    :param checkpointing: recompute activations in the backward pass instead of storing them.
    :param prompt: the keys of table ``[llm]`` that it was made from, if known.
    """

    standardises = False  # the head's initial weights apply to unstandardised features
    quantises = False

    def __init__(
        self,
        encoder: Any,
        tokenizer: Tokenizer,
        gains: tuple[float, ...],
        *,
        adapters: Lora,
        head: str = "cumulative",
        checkpointing: bool = False,
        prompt: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(lora.inject(encoder, adapters), tokenizer, head, int(encoder.config.hidden_size), gains)
        self.adapters, self.checkpointing, self.prompt = adapters, checkpointing, prompt
        self._explicit_mask = False
        self._exact: list[Tensor] = []  # frozen weights in float32 while copies in bfloat16 are in their place
        if checkpointing:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @classmethod
    def from_base(cls, config: Config, head: str) -> LlmReranker:
        """Make a zero-shot judge from the decoder ``[model] base``.

        :raises DarlError: if there is no such decoder, or prompt, words or targets do not fit it.
        """
        model, prompt, scale = config.model, config.llm, config.grades.scale
        if model.query_prompt or model.item_prompt:
            raise UsageError(
                "[model] query_prompt and item_prompt are not for the llm backbone", todo="set [llm] prompt"
            )
        words = prompt.grade_words or scale.names
        if len(words) != scale.k:
            raise UsageError(f"[llm] grade_words has {len(words)} words for {scale.k} grades", todo="give one for each")
        tokenizer = load_tokenizer(model.base)
        parts = split_prompt(prompt.prompt or DEFAULT, words, tokenizer, chat=prompt.chat)
        tokens = find_first_tokens(words, parts[2], tokenizer)
        frame = tokenise_frame(parts, tokenizer, chat=prompt.chat)
        decoder = _load(model.base, config.lora)
        length = model.query_cap + model.item_cap + len(frame)
        check_length(length, decoder.config)
        rows = lora.to_float32(decoder.get_output_embeddings().weight)[tokens]
        reranker = cls(
            decoder.base_model, apply_frame(tokenizer.backend_tokenizer, frame, length), scale.gains,
            adapters=config.lora, head=head, checkpointing=prompt.checkpointing,
            prompt={name: getattr(prompt, name) for name in PROMPT},
        )  # fmt: skip
        reranker.head.start_from(rows)
        return reranker.eval()

    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass."""
        mask = _causal_mask(input_ids) if self._explicit_mask else None
        out = self.encoder(
            input_ids=input_ids, attention_mask=mask, use_cache=False, output_hidden_states=layers == AVERAGE
        )
        last = (attention_mask.sum(1) - 1).clamp_min(0)
        state = _at(out.last_hidden_state, last)
        averaged: tuple[Tensor, ...] = ()
        if layers == AVERAGE:
            averaged = (F.normalize(_at(average_layers(out.hidden_states), last), dim=1, eps=1e-9),)
        return PairFeatures(state, (F.normalize(state, dim=1, eps=1e-9),), averaged)

    def pair_features(self, queries: Sequence[str], items: Sequence[str], *, layers: str = LAST) -> PairFeatures:
        """Encode pairs of texts."""
        self._hold_frozen(lower=self.device.type == "cuda" or _is_autocast(self.device))
        return super().pair_features(queries, items, layers=layers)

    @torch.no_grad()
    def feature_table(
        self,
        queries: Sequence[str],
        items: Sequence[str],
        pairs: Tensor,
        *,
        layers: str = LAST,
        advance: Callable[[int], object] = lambda n: None,
    ) -> FeatureTable:
        """Encode many pairs without gradient and in bounded memory, in float32 except under autocast.

        Head and OOD calibration are fitted on them, and the exported graph computes in float32.
        """
        self._hold_frozen(lower=_is_autocast(self.device))
        return super().feature_table(queries, items, pairs, layers=layers, advance=advance)

    def _hold_frozen(self, *, lower: bool) -> None:
        """Hold the frozen weights in bfloat16 or in float32; those of a CPU come back as they were."""
        if self.device.type == "cuda":
            lora.cast_frozen(self.encoder, torch.bfloat16 if lower else torch.float32)
        elif lower and not self._exact:
            frozen = lora.list_frozen(self.encoder)
            self._exact = [parameter.data for parameter in frozen]
            for parameter in frozen:
                parameter.data = parameter.data.bfloat16()
        elif not lower and self._exact:
            for parameter, weight in zip(lora.list_frozen(self.encoder), self._exact, strict=True):
                parameter.data = weight
            self._exact = []

    def to(self, *args: Any, **kwargs: Any) -> LlmReranker:
        """Move the model; its frozen weights are bfloat16 on a GPU and float32 on the CPU."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        self._hold_frozen(lower=False)
        if device is not None and device.type == "cuda":
            lora.cast_frozen(self.encoder, torch.bfloat16)  # before the move, to halve its memory
        super().to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            lora.cast_frozen(self.encoder, torch.float32)
        return self

    def encoder_parameters(self) -> list[Any]:
        """List the parameters of the adapters."""
        return [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return what training changes, adapters and head; as part of another module, everything."""
        if args or destination is not None:  # torch collects a parent module's weights, as for tracing
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        whole = super().state_dict(prefix=prefix, keep_vars=keep_vars)
        return {name: tensor for name, tensor in whole.items() if ".lora_" in name or name.startswith(f"{prefix}head.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore adapters and head from :meth:`state_dict`.

        :raises RuntimeError: if ``strict`` and names are missing or unknown.
        """
        if strict and (mismatched := set(state_dict) ^ set(self.state_dict())):
            raise RuntimeError(f"missing or unknown in the state: {', '.join(sorted(mismatched)[:5])}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Merge adapters, and use eager attention with an explicit mask, while the context is open."""
        self._explicit_mask = True
        self._hold_frozen(lower=False)
        try:
            with eager_attention(self.encoder), lora.merge_adapters(self.encoder):
                yield
        finally:
            self._explicit_mask = False

    def save(self, folder: Path) -> None:
        """Write merged weights, configuration and tokenizer."""
        from transformers import AutoModel

        self._hold_frozen(lower=False)
        config = type(self.encoder.config).from_dict(self.encoder.config.to_dict())
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.dtype = torch.float32
        with torch.device("meta"):
            bare = AutoModel.from_config(config)
        bare.save_pretrained(folder / WEIGHTS, state_dict=lora.merge_weights(self.encoder))
        adapters = dataclasses.asdict(self.adapters)
        facts = {"backbone": "llm", "lora": adapters, "checkpointing": self.checkpointing}
        self._save_parts(folder, facts | ({"llm": self.prompt} if self.prompt else {}))

    @classmethod
    def load(cls, folder: Path, config: Config | None = None) -> LlmReranker:
        """Load a model written by :meth:`save`, with new adapters that add nothing yet.

        :param config: of the adapters and of checkpointing; None: as they were.
        """
        from transformers import AutoModel

        facts = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        adapters = config.lora if config else Lora(**(facts["lora"] | {"targets": tuple(facts["lora"]["targets"])}))
        kind = {"quantization_config": lora.configure_nf4()} if config and adapters.quantise else {}
        with quiet():
            encoder = AutoModel.from_pretrained(folder / WEIGHTS, dtype=torch.float32, **kind)
        model = cls(
            encoder, Tokenizer.from_file(str(folder / "tokenizer.json")), tuple(facts["gains"]), adapters=adapters,
            head=facts["head"], checkpointing=config.llm.checkpointing if config else facts["checkpointing"],
            prompt=facts.get("llm"),
        )  # fmt: skip
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _load(name: str, adapters: Lora) -> Any:
    """Load a language model, including its output layer."""
    from transformers import AutoModelForCausalLM

    kind, where = {"quantization_config": lora.configure_nf4()} if adapters.quantise else {}, locate(name)
    try:
        with quiet():
            decoder = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **kind).eval()
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    if not kind and not _is_causal(decoder.base_model):
        raise UsageError("it does not read from left to right", where=name, todo='choose backbone = "cross" for it')
    return decoder


@torch.no_grad()
def _is_causal(decoder: Any) -> bool:
    """Whether a token's state is unaffected by the next token."""
    first, second = (
        decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state for ids in ([1, 2], [1, 3])
    )
    return bool((first[0, 0] - second[0, 0]).abs().max() <= 1e-4 * first.abs().max())


def _is_autocast(device: torch.device) -> bool:
    """Whether passes are in lower precision."""
    return torch.is_autocast_enabled(device.type)


def _at(states: Tensor, places: Tensor) -> Tensor:
    """Select the state at one position of each row, ``[n, h]`` float32."""
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1).float()


def _causal_mask(input_ids: Tensor) -> Tensor:
    """Make a causal mask to add to attention weights, ``[1, 1, s, s]``."""
    position = torch.cumsum(torch.ones_like(input_ids[:1]), dim=1)
    later: Tensor = (position[:, None, :] > position[:, :, None]).float()[:, None]
    return later * torch.finfo(torch.float32).min
