"""The llm backbone: a decoder reads a prompt with query and item, and its last state is graded.

The head starts as the language model's own output rows of the grade words, so that the untrained model is zero-shot
graded judging (Zhuang et al. 2023, arXiv:2310.14122): with the nominal head its probabilities are exactly the
softmax of the model's logits over those words. Training changes LoRA adapters and the head.
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
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.errors import InputError, UsageError
from trainer.config import Config, Lora
from trainer.models import lora
from trainer.models.base import AVERAGE, BACKBONES, LAST, FeatureTable, PairFeatures, layer_mean
from trainer.models.framing import framed
from trainer.models.joint import JointReader, check_length
from trainer.models.prompt import DEFAULT, first_tokens, frame_of_prompt, pieces
from trainer.models.sources import load_tokenizer, located, quiet, unusable
from trainer.models.tracing import eager_attention

WEIGHTS = "encoder"  # folder of the transformers checkpoint inside ours


@BACKBONES.register("llm", cite="Zhuang et al. 2023, arXiv:2310.14122; LoRA: Hu et al. 2021, arXiv:2106.09685")
class LlmReranker(JointReader):
    """A decoder's last state, graded from the output rows of the grade words; trained by LoRA.

    Tokens see only what stands before them and padding is on the right, so the last state needs no padding mask
    and cannot depend on what a pair shares its pass with.

    On a GPU the frozen weights are kept in bfloat16 for training; tables of features are computed in float32 from
    the same weights, as the exported graph computes them.

    :param encoder: the decoder without its output layer.
    :param tokenizer: its tokenizer, with the prompt as pair template and truncation of the bundle.
    :param adapters: table ``[lora]``.
    :param checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    standardises = False  # the head's weights belong to the features as they are
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
    ) -> None:
        super().__init__(lora.inject(encoder, adapters), tokenizer, head, int(encoder.config.hidden_size), gains)
        self.adapters, self.checkpointing = adapters, checkpointing
        self._explicit_mask = False
        if checkpointing:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @classmethod
    def from_base(cls, config: Config, head: str) -> LlmReranker:
        """Start from the decoder that ``[model] base`` names.

        :return: the untrained model, in evaluation mode: a zero-shot judge.
        :raises DarlError: when there is no such decoder, or prompt, words or targets do not fit it.
        """
        name, model, prompt = config.model.base, config.model, config.llm
        scale = config.grades.scale
        words = prompt.grade_words or scale.names
        if len(words) != scale.k:
            raise UsageError(f"[llm] grade_words has {len(words)} words for {scale.k} grades", todo="give one for each")
        tokenizer = load_tokenizer(name)
        if not tokenizer.is_fast:
            raise InputError("it has no fast tokenizer", where=name, todo="choose another base")
        parts = pieces(prompt.prompt or DEFAULT, words, tokenizer, chat=prompt.chat)
        tokens = first_tokens(words, parts[2], tokenizer)
        frame = frame_of_prompt(parts, tokenizer, chat=prompt.chat)
        decoder = _load(name, config.lora)
        length = model.query_cap + model.item_cap + len(frame)
        check_length(length, decoder.config)
        rows = lora.plain(decoder.get_output_embeddings().weight)[tokens]
        made = cls(
            decoder.base_model, framed(tokenizer.backend_tokenizer, frame, length), scale.gains,
            adapters=config.lora, head=head, checkpointing=prompt.checkpointing,
        )  # fmt: skip
        made.head.start_from(rows)
        return made.eval()

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
            averaged = (F.normalize(_at(layer_mean(out.hidden_states), last), dim=1, eps=1e-9),)
        return PairFeatures(state, (F.normalize(state, dim=1, eps=1e-9),), averaged)

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
        """Encode many pairs without gradient, in float32 and bounded memory.

        Head and OOD calibration are fitted on these, and the graph that they go into computes in float32.
        """
        with self._exact():
            return super().feature_table(queries, items, pairs, layers=layers, advance=advance)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        if self.device.type == "cpu":
            yield
            return
        lora.frozen_to(self.encoder, torch.float32)
        try:
            yield
        finally:
            lora.frozen_to(self.encoder, torch.bfloat16)

    def to(self, *args: Any, **kwargs: Any) -> LlmReranker:
        """Move the model; its frozen weights are bfloat16 on a GPU and float32 on the CPU."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type == "cuda":
            lora.frozen_to(self.encoder, torch.bfloat16)  # before the move: half the memory there
        super().to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            lora.frozen_to(self.encoder, torch.float32)
        return self

    def encoder_parameters(self) -> list[Any]:
        """Parameters below the head that training changes."""
        return [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """What training changes: adapters and head. As part of another module: everything.

        :return: weights and buffers by name.
        """
        if args or destination is not None:  # torch gathers a whole module's weights, as for tracing
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        whole = super().state_dict(prefix=prefix, keep_vars=keep_vars)
        return {name: tensor for name, tensor in whole.items() if ".lora_" in name or name.startswith(f"{prefix}head.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put adapters and head back.

        :param state_dict: what :meth:`state_dict` gave.
        :raises RuntimeError: when names are missing or unknown, and ``strict``.
        """
        if strict and (other := set(state_dict) ^ set(self.state_dict())):
            raise RuntimeError(f"missing or unknown in the state: {', '.join(sorted(other)[:5])}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Adapters merged, attention as plain products with a mask that is spelt out: what a tracer follows."""
        self._explicit_mask = True
        try:
            with eager_attention(self.encoder), lora.merged(self.encoder):
                yield
        finally:
            self._explicit_mask = False

    def save(self, folder: Path) -> None:
        """Write merged weights, configuration and tokenizer."""
        from transformers import AutoModel

        config = type(self.encoder.config).from_dict(self.encoder.config.to_dict())
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.dtype = torch.float32
        with torch.device("meta"):
            bare = AutoModel.from_config(config)
        bare.save_pretrained(folder / WEIGHTS, state_dict=lora.merged_weights(self.encoder))
        save_file({n: t.contiguous() for n, t in self.head.state_dict().items()}, folder / "head.safetensors")
        facts = {
            "backbone": "llm", "head": self.head_name, "gains": list(self.gains),
            "lora": dataclasses.asdict(self.adapters), "checkpointing": self.checkpointing,
        }  # fmt: skip
        (folder / "backbone.json").write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")
        self._tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path) -> LlmReranker:
        """Read what :meth:`save` wrote, with new adapters that add nothing yet."""
        from transformers import AutoModel

        facts = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        with quiet():
            encoder = AutoModel.from_pretrained(folder / WEIGHTS, dtype=torch.float32)
        adapters = Lora(**(facts["lora"] | {"targets": tuple(facts["lora"]["targets"])}))
        model = cls(
            encoder, Tokenizer.from_file(str(folder / "tokenizer.json")), tuple(facts["gains"]), adapters=adapters,
            head=facts["head"], checkpointing=facts["checkpointing"],
        )  # fmt: skip
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _load(name: str, adapters: Lora) -> Any:
    """The whole language model, output layer included."""
    from transformers import AutoModelForCausalLM

    kind = {"quantization_config": lora.nf4()} if adapters.quantise else {}
    try:
        with quiet():
            decoder = AutoModelForCausalLM.from_pretrained(located(name), dtype=torch.float32, **kind).eval()
    except (OSError, ValueError, SafetensorError) as err:
        raise unusable("checkpoint", name, err) from err
    if not kind and not _reads_from_the_left(decoder.base_model):
        raise UsageError("it does not read from left to right", where=name, todo='choose backbone = "cross" for it')
    return decoder


@torch.no_grad()
def _reads_from_the_left(decoder: Any) -> bool:
    """Whether a token's state stays when the token after it changes."""
    first, other = (
        decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state for ids in ([1, 2], [1, 3])
    )
    return bool((first[0, 0] - other[0, 0]).abs().max() <= 1e-4 * first.abs().max())


def _at(states: Tensor, places: Tensor) -> Tensor:
    """``[n, h]`` float32, the state at one place of each row."""
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1).float()


def _causal_mask(input_ids: Tensor) -> Tensor:
    """``[1, 1, s, s]`` added to attention weights: a lot of minus where a token stands later."""
    place = torch.cumsum(torch.ones_like(input_ids[:1]), dim=1)
    later: Tensor = (place[:, None, :] > place[:, :, None]).float()[:, None]
    return later * torch.finfo(torch.float32).min
