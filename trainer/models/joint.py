"""What the backbones share that read query and item together.

Pairs of like length share a pass, so that next to nothing is spent on padding; the rows come back in the order
that was asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from darl_opensearch.errors import UsageError
from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.encode import pad_batch
from trainer.models.base import AVERAGE, LAST, FeatureTable, PairFeatures
from trainer.models.heads import HEADS, Head

CPU_TOKENS, GPU_TOKENS = 512, 32_768  # of a pass: a CPU is fastest with small ones, a GPU with few and large ones
BLOCK = 8192  # pairs whose tokens are in memory at a time


class JointReader(nn.Module, ABC):
    """A backbone whose encoder sees query and item in one sequence.

    Sequences are padded on the right; token types are 1 from the item's first token on.

    :param tokenizer: its tokenizer, with the pair template and truncation of the bundle.
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
        self.batch_tokens: int | None = None  # most tokens of a pass, padding included; None: by device
        self._tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Size of the pair's embedding."""
        return int(self.encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where it is now."""
        return self.head.shift.device

    @abstractmethod
    def forward_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, layers: str = LAST
    ) -> PairFeatures:
        """Encode pair sequences in one pass."""

    def fit_texts(self, items: Iterable[str]) -> None:
        """Nothing to learn from texts alone."""

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
            read = self._read(encodings, advance, layers=layers)
            head_input[start : start + len(rows)] = read.head_input.cpu()
            embedding[start : start + len(rows)] = read.halves[0].cpu()
            for table, part in zip(averaged, read.averaged, strict=True):
                table[start : start + len(rows)] = part.cpu()
        return FeatureTable(head_input, (embedding,), torch.arange(len(pairs))[:, None], averaged)

    def pooled(
        self, texts: Sequence[str], *, layers: str = LAST, advance: Callable[[int], object] = lambda n: None
    ) -> Tensor:
        """Refused: there is no half to encode alone.

        :raises UsageError: always.
        """
        raise UsageError("this backbone reads query and item together", todo="use features of pairs")

    def _read(
        self, encodings: Sequence[Encoding], advance: Callable[[int], object] = lambda n: None, *, layers: str = LAST
    ) -> PairFeatures:
        budget = self.batch_tokens or (CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS)
        if not encodings:
            none = torch.zeros(0, self.width, device=self.device)
            averaged = (none,) if layers == AVERAGE else ()
            return PairFeatures(none.new_zeros(0, self.head.shift.shape[0]), (none,), averaged)
        order, parts = [], []
        for batch in plan_batches([len(e.ids) for e in encodings], token_budget=budget):
            fed = pad_batch([encodings[i] for i in batch])
            inputs = (torch.from_numpy(fed[name]).to(self.device) for name in INPUTS)
            parts.append(self.forward_features(*inputs, layers=layers))
            order.append(torch.from_numpy(batch))
            advance(len(batch))
        back = torch.cat(order).argsort().to(self.device)
        averaged = (torch.cat([part.averaged[0] for part in parts])[back],) if layers == AVERAGE else ()
        return PairFeatures(
            torch.cat([part.head_input for part in parts])[back],
            (torch.cat([part.halves[0] for part in parts])[back],),
            averaged,
        )

    def tokenizer(self) -> Tokenizer:
        """The pair tokenizer that goes into the bundle."""
        return self._tokenizer


def check_length(length: int, config: Any, *, taken: int = 0) -> None:
    """Refuse caps for which the encoder has no positions.

    :raises UsageError: when there are fewer positions.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and length > positions - taken:
        raise UsageError(
            f"[model] query_cap, item_cap and the template are {length} tokens, and the base model has "
            f"{positions - taken} positions",
            todo="lower the caps, or choose another base",
        )
