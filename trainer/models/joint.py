"""The common part of backbones that read query and item together.

Pairs of similar length share a pass, so that there is little padding; rows are returned in the original order.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from darl_opensearch.errors import UsageError
from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.encode import pad_batch
from trainer.models.base import AVERAGE, LAST, FeatureTable, PairFeatures, token_budget
from trainer.models.heads import HEADS, Head

BLOCK = 8192  # pairs whose tokens are in memory at a time


class JointReader(nn.Module, ABC):
    """A backbone whose encoder sees query and item in one sequence.

    Sequences are padded on the right; token types are 1 from the item's first token on.

    :param tokenizer: its tokenizer, with the bundle's pair template and truncation.
    """

    halves = 1
    standardises = True
    quantises = True
    head: Head

    def __init__(
        self, encoder: Any, tokenizer: Tokenizer, head: str, input_width: int, gains: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = HEADS[head].make(input_width, gains)
        self.head_name, self.gains = head, gains
        self.batch_tokens: int | None = None  # maximum tokens per pass, including padding; None: by device
        self._tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Size of the pair's embedding."""
        return int(self.encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Current device."""
        return self.head.shift.device

    @abstractmethod
    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass."""

    def fit_texts(self, items: Iterable[str]) -> None:
        """Do nothing: this backbone needs no statistics of texts."""

    def pair_features(self, queries: Sequence[str], items: Sequence[str], *, layers: str = LAST) -> PairFeatures:
        """Encode pairs of texts."""
        return self._read(self._tokenizer.encode_batch(list(zip(queries, items, strict=True))), layers=layers)

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
        """Encode many pairs without gradient, in bounded memory."""
        head_input, embedding = torch.zeros(len(pairs), self.head.shift.shape[0]), torch.zeros(len(pairs), self.width)
        averaged = tuple(torch.zeros_like(embedding) for _ in range(layers == AVERAGE))
        for start in range(0, len(pairs), BLOCK):
            rows = pairs[start : start + BLOCK].tolist()
            encodings = self._tokenizer.encode_batch([(queries[q], items[i]) for q, i in rows])
            features = self._read(encodings, advance, layers=layers)
            block = slice(start, start + len(rows))
            head_input[block], embedding[block] = features.head_input.cpu(), features.halves[0].cpu()
            for table, values in zip(averaged, features.averaged, strict=True):
                table[block] = values.cpu()
        return FeatureTable(head_input, (embedding,), torch.arange(len(pairs))[:, None], averaged)

    def pool_texts(
        self, texts: Sequence[str], half: str, *, layers: str = LAST, advance: Callable[[int], object] = lambda n: None
    ) -> Tensor:
        """Refuse: there are no halves.

        :raises UsageError: always.
        """
        raise UsageError("this backbone reads query and item together", todo="use features of pairs")

    def _read(
        self, encodings: Sequence[Encoding], advance: Callable[[int], object] = lambda n: None, *, layers: str = LAST
    ) -> PairFeatures:
        budget = self.batch_tokens or token_budget(self.device)
        if not encodings:
            empty = torch.zeros(0, self.width, device=self.device)
            averaged = (empty,) if layers == AVERAGE else ()
            return PairFeatures(empty.new_zeros(0, self.head.shift.shape[0]), (empty,), averaged)
        order, parts = [], []
        for batch in plan_batches([len(e.ids) for e in encodings], token_budget=budget):
            padded = pad_batch([encodings[i] for i in batch])
            inputs = (torch.from_numpy(padded[name]).to(self.device) for name in INPUTS)
            parts.append(self.forward_features(*inputs, layers=layers))
            order.append(torch.from_numpy(batch))
            advance(len(batch))
        original = torch.cat(order).argsort().to(self.device)
        averaged = (torch.cat([part.averaged[0] for part in parts])[original],) if layers == AVERAGE else ()
        head_input, embedding = torch.cat([p.head_input for p in parts]), torch.cat([p.halves[0] for p in parts])
        return PairFeatures(head_input[original], (embedding[original],), averaged)

    def tokenizer(self) -> Tokenizer:
        """Return the pair tokenizer for the bundle."""
        return self._tokenizer

    def _save_parts(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write head, tokenizer and ``backbone.json``, which has ``facts`` besides head and gains."""
        save_file({n: t.contiguous() for n, t in self.head.state_dict().items()}, folder / "head.safetensors")
        facts = {"head": self.head_name, "gains": list(self.gains), **facts}
        (folder / "backbone.json").write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")
        self._tokenizer.save(str(folder / "tokenizer.json"))


def check_length(length: int, config: Any, *, reserved: int = 0, most: int | None = None) -> None:
    """Refuse caps beyond the encoder's positions.

    :param length: tokens of the longest pair, with the template.
    :param reserved: positions that are not for tokens.
    :param most: maximum tokens of a pair, whatever the encoder.
    :raises UsageError: if there are too few positions, or more tokens than that.
    """
    if most is not None and length > most:
        raise UsageError(
            f"[model] query_cap, item_cap and the template with its prompts are {length} tokens",
            todo=f"lower the caps: ML Commons truncates pairs beyond {most} tokens",
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and length > positions - reserved:
        raise UsageError(
            f"[model] query_cap, item_cap and the template are {length} tokens, and the base model has "
            f"{positions - reserved} positions",
            todo="lower the caps, or choose another base",
        )
