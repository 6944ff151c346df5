"""The OOD log: records of reranked requests, spooled, shipped and read back."""

from __future__ import annotations

from darl_opensearch.ood.log import OodLog
from darl_opensearch.ood.record import LogPolicy, PairRecord, RankedRequest, Record, RequestRecord
from darl_opensearch.ood.shipper import Shipper, ShipResult
from darl_opensearch.ood.store import JoinedTexts, OodStore, SpoolStore, StreamStore, join_texts
from darl_opensearch.ood.stream import STREAM, ensure_stream

__all__ = [
    "STREAM",
    "JoinedTexts",
    "LogPolicy",
    "OodLog",
    "OodStore",
    "PairRecord",
    "RankedRequest",
    "Record",
    "RequestRecord",
    "ShipResult",
    "Shipper",
    "SpoolStore",
    "StreamStore",
    "ensure_stream",
    "join_texts",
]
