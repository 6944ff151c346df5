"""Names of states: the same text under the same encoder has the same one, whatever head is above it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from darl_opensearch.bundle import TOKENIZER, Bundle
from darl_opensearch.io.digest import digest_json
from darl_opensearch.states.state import FORMAT

KEY_BYTES = 16


class StateKeys:
    """Makes the keys of one encoder's states.

    :param encoder: what decides an item's half: digest of the weights, tokenizer, cap, engine and precision.
    """

    def __init__(self, encoder: Mapping[str, Any]) -> None:
        self._prefix = bytes.fromhex(digest_json({"format": FORMAT, **encoder}))

    @classmethod
    def of_bundle(cls, bundle: Bundle, *, int8: bool) -> StateKeys:
        """Make the keys of a bundle's items.

        :param int8: with the quantised encoder.
        """
        return cls({
            "encoder": bundle.card.states["encoder"], "tokenizer": bundle.digests[TOKENIZER],
            "item_cap": bundle.card.item_cap, "engine": "onnxruntime", "precision": "int8" if int8 else "float32",
        })  # fmt: skip

    def of(self, text: str) -> bytes:
        """Name the state of a text.

        :return: 16 bytes.
        """
        return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, key=self._prefix).digest()
