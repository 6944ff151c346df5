"""The split backbone: a reranker from a bi-encoder's checkpoint, which it equals before training.

One sequence ``[CLS] query [SEP] [CLS] item [SEP]``; each half attends to itself only, has positions from 0 and
token-type embedding 0, so that the halves' states are those of two separate encodings (PreTTR, MacAvaney et al. 2020,
arXiv:2004.14255). A base's prompts are part of the template, after each ``[CLS]``; they have no weight among the token
similarities. The halves are compared in the head's input only: the cosine of the pooled halves, and token
similarities pooled by Gaussian kernels (K-NRM, Xiong et al. 2017, arXiv:1706.06613) and by their maximum, with query
tokens weighted by inverse document frequency.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from darl_opensearch.graph_contract import MAX_TOKENS
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch, special_ids
from trainer.config import Config
from trainer.models.base import (
    AVERAGE,
    BACKBONES,
    HALVES,
    ITEM,
    LAST,
    QUERY,
    FeatureTable,
    PairFeatures,
    average_layers,
    token_budget,
)
from trainer.models.framing import Prompts, copy_plain, make_half_template, tokenise_prompt
from trainer.models.heads import HEADS
from trainer.models.joint import check_length
from trainer.models.pooling import MEAN, Projection, pool
from trainer.models.sources import EncoderSource, load_encoder

KERNEL_CENTRES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
KERNEL_WIDTH = 0.05
INPUT_WIDTH = 2 + len(KERNEL_CENTRES)
CHUNK = 256  # items, or pairs of one item, in memory at a time
RARE_FLOOR = 0.01  # weight of a token that every item has; only special tokens have weight 0


@BACKBONES.register("split", cite="MacAvaney et al. 2020, arXiv:2004.14255; Xiong et al. 2017, arXiv:1706.06613")
class SplitReranker(nn.Module):
    """Bi-encoder halves, token similarities, ordered grades.

    :param encoder: a transformers encoder whose attention takes a ``[n, s, s]`` mask.
    :param tokenizer: its tokenizer, with the bundle's pair template and truncation.
    :param pooling: ``mean`` or ``cls``, as the bi-encoder was trained.
    :param include_prompt: whether a mean is over the prompt too.
    :param projection: the bi-encoder's layers after the pooling.
    :param prompts: texts whose tokens the template has.
    :param position_offset: first position id (0 for BERT, padding index + 1 for RoBERTa).
    """

    halves = 2
    standardises = True
    quantises = True

    def __init__(
        self,
        encoder: Any,
        tokenizer: Tokenizer,
        gains: tuple[float, ...],
        *,
        query_cap: int,
        item_cap: int,
        pooling: str = MEAN,
        include_prompt: bool = True,
        projection: Projection | None = None,
        prompts: Prompts | None = None,
        position_offset: int = 0,
        head: str = "cumulative",
    ) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection or Projection()
        self.head = HEADS[head].make(INPUT_WIDTH, gains)
        self.head_name = head
        self.gains, self.pooling, self.position_offset = gains, pooling, position_offset
        self.include_prompt, self.prompts = include_prompt, prompts or Prompts()
        self.query_cap, self.item_cap = query_cap, item_cap
        self._tokenizer, self._capped = tokenizer, CappedTokenizer(tokenizer, query_cap, item_cap)
        self.register_buffer("centres", torch.tensor(KERNEL_CENTRES))
        rarity = torch.ones(encoder.config.vocab_size)
        rarity[special_ids(tokenizer)] = 0.0
        self.register_buffer("rarity", rarity)
        self.centres: Tensor
        self.rarity: Tensor

    @classmethod
    def from_base(cls, config: Config, head: str) -> SplitReranker:
        """Make an untrained model from the bi-encoder ``[model] base``.

        :raises DarlError: if there is no such bi-encoder, or it cannot be split.
        """
        model = config.model
        gains, caps = config.grades.scale.gains, {"query_cap": model.query_cap, "item_cap": model.item_cap}
        source = load_encoder(model.base, query_prompt=model.query_prompt, item_prompt=model.item_prompt)
        return cls.from_source(source, gains, head=head, **caps).eval()

    @classmethod
    def from_source(
        cls,
        source: EncoderSource,
        gains: tuple[float, ...],
        *,
        query_cap: int,
        item_cap: int,
        head: str = "cumulative",
    ) -> SplitReranker:
        """Make a model that ranks as the bi-encoder's cosine does.

        :raises UsageError: if the checkpoint has too few positions, or a prompt cannot be in the template.
        """
        modules, prompts = source.modules, source.prompts
        plain = copy_plain(source.tokenizer)
        tokens = [
            tokenise_prompt(plain, prompt, key=f"{half}_prompt", alone=not modules.include_prompt)
            for half, prompt in dataclasses.asdict(prompts).items()
        ]
        tokenizer = make_half_template(plain, source.cls, source.sep, tokens, caps=query_cap + item_cap)
        length = int(tokenizer.truncation["max_length"])
        check_length(length, source.encoder.config, reserved=source.position_offset, most=MAX_TOKENS)
        return cls(
            source.encoder, tokenizer, gains, query_cap=query_cap, item_cap=item_cap, pooling=modules.pooling,
            include_prompt=modules.include_prompt, projection=modules.projection, prompts=prompts,
            position_offset=source.position_offset, head=head,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Size of a half's embedding."""
        return self.projection.width(int(self.encoder.config.hidden_size))

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        """Numbers of tokens of the query's and of the item's prompt, after the first token of each half."""
        return self._capped.prompts

    @torch.no_grad()
    def fit_texts(self, items: Iterable[str]) -> None:
        """Set the tokens' inverse document frequency, ``log((N + 1) / (df + 0.5))``, floored; 0 for special tokens."""
        df = torch.zeros_like(self.rarity)
        count = 0
        remaining = iter(items)
        while chunk := list(islice(remaining, 4096)):  # a catalogue may not fit into memory
            for encoding in self._tokenizer.encode_batch(chunk, add_special_tokens=False):
                df[torch.tensor(sorted(set(encoding.ids)), dtype=torch.long)] += 1
                count += 1
        rarity = torch.log((count + 1) / (df + 0.5)).clamp_min(RARE_FLOOR)
        rarity[special_ids(self._tokenizer)] = 0.0
        self.rarity.copy_(rarity)

    def encode(
        self, input_ids: Tensor, mask: Tensor, position_ids: Tensor, attention: Tensor, layers: str
    ) -> tuple[Tensor, Tensor | None]:
        """Run the encoder.

        :param input_ids: ``[n, s]`` int64.
        :param mask: ``[n, s]`` int64, for its shape only.
        :param position_ids: ``[n, s]`` int64 from 0.
        :param attention: ``[n, s, s]`` int64, 1 where a token attends to another.
        :param layers: ``average``: also average the layers.
        :return: ``[n, s, h]`` last states, and the mean of the layers or None.
        """
        out = self.encoder(
            input_ids=input_ids,
            attention_mask=attention,
            token_type_ids=torch.zeros_like(mask),
            position_ids=position_ids + self.position_offset,
            output_hidden_states=layers == AVERAGE,
        )
        return out.last_hidden_state, average_layers(out.hidden_states) if layers == AVERAGE else None

    def pool(self, states: Tensor, mask: Tensor, position_ids: Tensor, half: str) -> Tensor:
        """Pool the states of one half, as the bi-encoder does.

        :param states: ``[n, s, h]``.
        :param mask: ``[n, s]`` float, 1 for tokens of this half.
        :param position_ids: ``[n, s]`` int64 from 0 in each half.
        :param half: ``query`` or ``item``.
        :return: ``[n, h]`` of unit length.
        """
        pooled = pool(
            states, mask, position_ids, pooling=self.pooling, prompt=self.prompt_tokens[HALVES.index(half)],
            include_prompt=self.include_prompt,
        )  # fmt: skip
        return F.normalize(self.projection(pooled), dim=-1, eps=1e-9)

    def compare(
        self, cosine: Tensor, query: tuple[Tensor, Tensor, Tensor], item: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Compute the head's input from both halves.

        :param cosine: ``[n]`` cosine of the pooled halves.
        :param query: states ``[n, a, h]``, mask ``[n, a]`` float and token ids ``[n, a]``.
        :param item: the same for the item, ``[n, b, …]``.
        :return: ``[n, 2 + kernels]``: cosine, weighted maximum, weighted kernels.
        """
        (query_states, query_mask, query_ids), (item_states, item_mask, item_ids) = query, item
        content = item_mask * (self.rarity[item_ids] > 0).to(item_mask)  # without special tokens
        sims = torch.bmm(to_units(query_states), to_units(item_states).transpose(1, 2))
        return self.pool_similarities(cosine, sims, self.weigh(query_ids, query_mask), item_mask, content)

    def weigh(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Weight a query's tokens by rarity.

        :param ids: ``[n, a]`` int64.
        :param mask: ``[n, a]`` float.
        :return: ``[n, a]``, rows sum to 1.
        """
        weight = self.rarity[ids] * mask
        return weight / weight.sum(1, keepdim=True).clamp_min(1e-6)

    def pool_similarities(
        self, cosine: Tensor, sims: Tensor, weight: Tensor, item_mask: Tensor, content: Tensor
    ) -> Tensor:
        """Compute the head's input from token similarities.

        :param sims: ``[n, a, b]``.
        :param weight: ``[n, a]``, of the query's tokens.
        :param item_mask: ``[n, b]`` float.
        :param content: ``[n, b]`` float, ``item_mask`` without special tokens.
        """
        best = (sims * content[:, None, :] + (content[:, None, :] - 1.0) * 2.0).amax(dim=2).clamp_min(-1.0)
        columns = [cosine, (best * weight).sum(1)]
        sims = sims + (item_mask[:, None, :] - 1.0) * 10.0  # so far from every centre that padding adds 0
        for centre in self.centres.unbind():
            kernel = torch.exp((sims - centre).square() * (-0.5 / KERNEL_WIDTH**2))
            columns.append((torch.log1p(kernel.sum(2)) * weight).sum(1))
        return torch.stack(columns, dim=1)

    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass; each half attends to itself only."""
        item_part = token_type_ids * attention_mask
        query_part = attention_mask - item_part
        # token_type_ids are 0, 0, …, 1, 1, …: the item's positions start after the query's tokens.
        index = torch.cumsum(torch.ones_like(input_ids), dim=1) - 1
        position_ids = (index - item_part * query_part.sum(1, keepdim=True)).clamp_min(0)
        same = (token_type_ids[:, :, None] == token_type_ids[:, None, :]).to(attention_mask)
        attention = same * attention_mask[:, None, :]
        states, mean = self.encode(input_ids, attention_mask, position_ids, attention, layers)
        query_mask, item_mask = query_part.to(states), item_part.to(states)
        masks = dict(zip(HALVES, (query_mask, item_mask), strict=True))
        query, item = (self.pool(states, mask, position_ids, half) for half, mask in masks.items())
        cosine = (query * item).sum(1)
        averaged = () if mean is None else tuple(self.pool(mean, m, position_ids, half) for half, m in masks.items())
        for half, prompt in zip(HALVES, self.prompt_tokens, strict=True):
            if prompt:
                masks[half] = masks[half] * ((position_ids == 0) | (position_ids > prompt)).to(states)
        sides = [(states, mask, input_ids) for mask in masks.values()]
        return PairFeatures(self.compare(cosine, *sides), (query, item), averaged)

    def pair_features(self, queries: Sequence[str], items: Sequence[str], *, layers: str = LAST) -> PairFeatures:
        """Encode pairs of texts, each distinct text once."""
        halves, sides, averaged = [], [], []
        for half, texts in zip(HALVES, (queries, items), strict=True):
            distinct = list(dict.fromkeys(texts))
            order: list[int] = []
            parts: list[tuple[Tensor, ...]] = []
            for batch, ids, mask in self._batches(distinct, half):
                states, pooled, mean = self._encode_halves(ids, mask, layers, half)
                order += batch
                tokens = (self._drop_prompt(values, half) for values in (states, mask.to(states), ids))
                parts.append((*tokens, pooled, *(() if mean is None else (mean,))))
            place = {distinct[i]: row for row, i in enumerate(order)}
            rows = torch.tensor([place[text] for text in texts], device=self.rarity.device)
            states, mask, ids = (_pad_to_longest([part[n] for part in parts])[rows] for n in range(3))
            pooled, *means = (torch.cat([part[n] for part in parts])[rows] for n in range(3, len(parts[0])))
            halves.append(pooled)
            sides.append((states, mask, ids))
            averaged += means
        query, item = halves
        return PairFeatures(self.compare((query * item).sum(1), *sides), (query, item), tuple(averaged))

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
        """Encode many pairs without gradient, each distinct text once, in bounded memory.

        Queries' states are kept in memory; items are processed in chunks.
        """
        head_input = torch.zeros(len(pairs), INPUT_WIDTH)
        query_states, query_pooled, query_mean = self._encode_texts(queries, advance, layers, QUERY)
        item_pooled = torch.zeros(len(items), query_pooled.shape[1])
        item_mean = None if query_mean is None else torch.zeros_like(item_pooled)
        order = sorted(range(len(items)), key=lambda i: len(items[i]))
        by_item = pairs[:, 1].argsort(stable=True)
        starts = torch.searchsorted(pairs[by_item, 1].contiguous(), torch.arange(len(items) + 1))
        for begin in range(0, len(items), CHUNK):
            chunk = order[begin : begin + CHUNK]
            states, pooled, mean = self._encode_texts([items[i] for i in chunk], advance, layers, ITEM)
            item_pooled[chunk] = pooled
            if item_mean is not None and mean is not None:
                item_mean[chunk] = mean
            for row, item in enumerate(chunk):
                for part in by_item[starts[item] : starts[item + 1]].split(CHUNK):
                    rows = pairs[part, 0].tolist()
                    if not rows:
                        continue  # no pair has this item
                    width = max(len(query_states[r][1]) for r in rows)
                    query_side = self._on_device(_stack([query_states[r] for r in rows], width))
                    item_side = self._on_device(_stack([states[row]], len(states[row][1])))
                    item_states, item_mask, item_ids = (t.expand(len(rows), *t.shape[1:]) for t in item_side)
                    cosine = (query_pooled[rows] @ pooled[row]).to(query_side[0])
                    inputs = self.compare(cosine, query_side, (item_states, item_mask, item_ids))
                    head_input[part] = inputs.float().cpu()
        averaged = () if query_mean is None or item_mean is None else (query_mean, item_mean)
        return FeatureTable(head_input, (query_pooled, item_pooled), pairs, averaged)

    @torch.no_grad()
    def pool_texts(
        self, texts: Sequence[str], half: str, *, layers: str = LAST, advance: Callable[[int], object] = lambda n: None
    ) -> Tensor:
        """Encode halves alone, without token similarities."""
        parts = [torch.zeros(0, self.width)]
        for begin in range(0, len(texts), CHUNK):
            _, last, mean = self._encode_texts(texts[begin : begin + CHUNK], advance, layers, half)
            parts.append(last if mean is None else mean)
        return torch.cat(parts)

    def _on_device(self, tensors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        device = self.rarity.device
        return tensors[0].to(device), tensors[1].to(device), tensors[2].to(device)

    def _encode_texts(
        self, texts: Sequence[str], advance: Callable[[int], object], layers: str, half: str
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor | None]:
        """Encode texts to states and ids without padding and prompt, pooled halves, and averaged halves or None."""
        states: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(texts)
        pooled = torch.zeros(len(texts), self.width)
        averaged = torch.zeros_like(pooled) if layers == AVERAGE else None
        for chunk, ids, mask in self._batches(texts, half):
            last, halves, mean = self._encode_halves(ids, mask, layers, half)
            last, ids, mask = (self._drop_prompt(values, half) for values in (last, ids, mask))
            pooled[chunk] = halves.float().cpu()
            if averaged is not None and mean is not None:
                averaged[chunk] = mean.float().cpu()
            for row, i in enumerate(chunk):
                n = int(mask[row].sum())
                states[i] = (last[row, :n].cpu(), ids[row, :n].cpu())
            advance(len(chunk))
        return states, pooled, averaged

    def _drop_prompt(self, values: Tensor, half: str) -> Tensor:
        """Leave out the prompt's tokens of ``[n, s, …]``."""
        prompt = self.prompt_tokens[HALVES.index(half)]
        return torch.cat([values[:, :1], values[:, 1 + prompt :]], dim=1) if prompt else values

    def _encode_halves(self, ids: Tensor, mask: Tensor, layers: str, half: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode single texts to last states, pooled halves, and averaged halves or None."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        attention = mask[:, None, :].expand(-1, ids.shape[1], -1)
        states, mean = self.encode(ids, mask, positions, attention, layers)
        weight = mask.to(states)
        averaged = None if mean is None else self.pool(mean, weight, positions, half)
        return states, self.pool(states, weight, positions, half), averaged

    def _batches(self, texts: Sequence[str], half: str) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield places, token ids and mask of texts of similar length."""
        sequences = self._capped.queries(texts) if half == QUERY else self._capped.items(texts)
        device = self.rarity.device
        for batch in plan_batches([len(sequence.ids) for sequence in sequences], token_budget=token_budget(device)):
            padded = pad_batch([sequences[i] for i in batch])
            ids, mask = (torch.from_numpy(padded[name]).to(device) for name in ("input_ids", "attention_mask"))
            yield batch.tolist(), ids, mask

    def encoder_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the encoder and of the layers after its pooling."""
        return [*self.encoder.parameters(), *self.projection.parameters()]

    def tokenizer(self) -> Tokenizer:
        """Return the pair tokenizer for the bundle."""
        return self._tokenizer

    def exporting(self) -> AbstractContextManager[None]:
        """Do nothing: models from :meth:`load` use eager attention."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        save_file({name: t.contiguous() for name, t in self.state_dict().items()}, folder / "model.safetensors")
        config = {
            "backbone": "split", "head": self.head_name, "gains": list(self.gains),
            "query_cap": self.query_cap, "item_cap": self.item_cap,
            "pooling": self.pooling, "include_prompt": self.include_prompt, "projection": self.projection.steps,
            "prompts": dataclasses.asdict(self.prompts), "position_offset": self.position_offset,
            "encoder": self.encoder.config.to_dict(),
        }  # fmt: skip
        (folder / "backbone.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        self._tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path, config: Config | None = None) -> SplitReranker:
        """Load a model written by :meth:`save`."""
        from transformers import AutoConfig, AutoModel

        facts = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        described = facts["encoder"]
        encoder = AutoModel.from_config(
            AutoConfig.for_model(described.pop("model_type"), **described),
            attn_implementation="eager",  # products and a softmax, which the exporter can trace
            add_pooling_layer=False,
        )
        model = cls(
            encoder, Tokenizer.from_file(str(folder / "tokenizer.json")), tuple(facts["gains"]),
            query_cap=facts["query_cap"], item_cap=facts["item_cap"], pooling=facts["pooling"],
            include_prompt=facts.get("include_prompt", True), projection=Projection(facts.get("projection", ())),
            prompts=Prompts(**facts.get("prompts", {})), position_offset=facts["position_offset"],
            head=facts.get("head", "cumulative"),
        )  # fmt: skip
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def to_units(states: Tensor) -> Tensor:
    """Scale states to unit length."""
    return F.normalize(states, dim=-1, eps=1e-9)


def _pad_to_longest(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors ``[n, s, …]`` along the first axis, padded with zeros along the second."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, width - part.shape[1])) for part in parts])


def _stack(sides: list[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stack states and ids of several texts, padded; return states, mask and ids."""
    first = sides[0][0]
    states = first.new_zeros(len(sides), width, first.shape[-1])
    mask = first.new_zeros(len(sides), width)
    ids = torch.zeros(len(sides), width, dtype=torch.long)
    for row, (state, tokens) in enumerate(sides):
        states[row, : len(tokens)], mask[row, : len(tokens)], ids[row, : len(tokens)] = state, 1.0, tokens
    return states, mask, ids
