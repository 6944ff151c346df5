"""What the model found strange: records of it, spooled, shipped and read back."""

from __future__ import annotations

from darl_opensearch.ood.log import OodLog
from darl_opensearch.ood.record import LogPolicy, PairRecord, RankedRequest, Record, RequestRecord

__all__ = ["LogPolicy", "OodLog", "PairRecord", "RankedRequest", "Record", "RequestRecord"]
