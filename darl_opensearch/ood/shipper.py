"""From the spool to the cluster, in bulk: at least once, deduplicated by record id.

Records are sent as ``create`` and leave the spool once the cluster has answered for each of them. A batch whose answer
was lost is sent again and answered 409, which counts as success. So nothing is lost and nothing written twice, except
across a rollover, where ids are unique per backing index only: readers drop those duplicates.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darl_opensearch.cluster_errors import explain_refusal, reason_of, translate
from darl_opensearch.errors import ClusterError, DarlError
from darl_opensearch.io.http import backoff
from darl_opensearch.ood.spool import Spool, Spooled
from darl_opensearch.ood.stream import STREAM, ensure_stream

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

logger = logging.getLogger(__name__)

CREATED, CONFLICT = 201, 409
# Statuses that reject the record itself, now and later. Others (429, 403 on a full disk, 5xx, and 400 of the kinds
# below, which concern the index) depend on the cluster's state and are retried.
POISON = frozenset({400, 413})
PASSING = frozenset({"index_closed_exception", "validation_exception"})
REQUEST_SECONDS = 30.0  # a batch takes well under a second; a lost answer costs only another attempt
ANSWER_FIELDS = ",".join(
    ("items.*.status", *(f"items.*.error.{name}" for name in ("type", "reason", "index", "caused_by.reason")))
)


@dataclass(frozen=True)
class ShipResult:
    """Outcome of a batch.

    :param dead: permanently rejected records, which became dead letters.
    :param deferred: records not accepted for now; they stay in the spool.
    :param reason: why records were deferred.
    """

    sent: int = 0
    created: int = 0
    already_there: int = 0
    dead: int = 0
    deferred: int = 0
    reason: str | None = None

    def __add__(self, other: ShipResult) -> ShipResult:
        return ShipResult(
            self.sent + other.sent,
            self.created + other.created,
            self.already_there + other.already_there,
            self.dead + other.dead,
            self.deferred + other.deferred,
            other.reason or self.reason,
        )


class Shipper:
    """Ships a spool. Several shippers may share one; each record is counted once.

    :param where: the cluster's URL, for messages.
    :param batch_bytes: maximum size of a batch.
    :param poll_seconds: wait between checks of an empty spool.
    """

    def __init__(
        self,
        spool_path: str | os.PathLike[str],
        client: OpenSearch,
        *,
        stream: str = STREAM,
        where: str = "the cluster",
        batch_records: int = 1000,
        batch_bytes: int = 4 * 1024 * 1024,
        poll_seconds: float = 1.0,
        backoff_seconds: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        self.stream, self.where = stream, where
        self._spool = Spool.open(spool_path)
        self._client = client
        self._batch_records, self._batch_bytes = batch_records, batch_bytes
        self._poll_seconds, self._backoff_seconds = poll_seconds, backoff_seconds
        self._stream_checked = False
        self._failing = False

    def __enter__(self) -> Shipper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()

    def ship_once(self) -> ShipResult:
        """Send the oldest batch.

        :return: its outcome; empty if the spool is empty.
        :raises SpoolError: if the spool cannot be read or written.
        :raises ClusterError: if the cluster did not answer for the batch; all of it stays in the spool.
        """
        self._reopen_if_replaced()
        batch = self._spool.take(limit=self._batch_records, max_bytes=self._batch_bytes)
        return self._ship(batch) if batch else ShipResult()

    def ship_all(self, *, after_batch: Callable[[ShipResult], None] | None = None) -> ShipResult:
        """Ship until the spool is empty or the cluster accepts no more for now; then refresh.

        :raises ClusterError: if the cluster did not answer for a batch.
        """
        from opensearchpy.exceptions import OpenSearchException

        total = ShipResult()
        while (result := self.ship_once()).sent:
            total += result
            if after_batch:
                after_batch(result)
            if result.deferred:
                break
        if total.created:
            with contextlib.suppress(OpenSearchException):  # only so that readers see the records at once
                self._client.indices.refresh(index=self.stream)
        return total

    def run(self, stop: threading.Event) -> None:
        """Ship until stopped, waiting out failures with one warning per outage.

        :param stop: set it to stop; unsent records stay in the spool.
        """
        failures = 0
        while not stop.is_set():
            try:
                result = self.ship_once()
            except (DarlError, OSError) as err:
                self._note_failure(str(err))
            except Exception as err:  # noqa: BLE001  a proxy may answer anything, and shipping must go on afterwards
                self._note_failure(f"{self.where}: invalid response ({type(err).__name__}: {err}).")
            else:
                if not result.deferred:
                    self._note_success()
                    failures = 0
                    if not result.sent:
                        stop.wait(self._poll_seconds)
                    continue
                self._note_failure(f"{self.where}: {result.deferred} records were not accepted ({result.reason})")
            stop.wait(backoff(failures, *self._backoff_seconds))
            failures += 1

    def _reopen_if_replaced(self) -> None:
        if not self._spool.is_in_place():
            replaced, self._spool = self._spool, Spool.open(self._spool.path)
            replaced.close()

    def _ship(self, batch: list[Spooled]) -> ShipResult:
        from opensearchpy.exceptions import OpenSearchException, TransportError

        try:
            if not self._stream_checked:
                ensure_stream(self._client, self.stream)
                self._stream_checked = True
            answer = self._client.bulk(
                body=self._body(batch),
                params={"filter_path": ANSWER_FIELDS, "request_timeout": REQUEST_SECONDS},
            )
        except OpenSearchException as err:
            self._stream_checked = False  # the next answer may come from another, empty cluster
            if isinstance(err, TransportError) and err.status_code == 413:
                return self._ship_smaller(batch, reason_of(err))
            raise translate(err, self.where) from err
        return self._settle(batch, answer)

    def _body(self, batch: list[Spooled]) -> str:
        lines = []
        for record in batch:
            lines.append(json.dumps({"create": {"_index": self.stream, "_id": record.record_id}}))
            lines.append(record.body)
        return "\n".join(lines) + "\n"

    def _ship_smaller(self, batch: list[Spooled], reason: str) -> ShipResult:
        if len(batch) > 1:
            half = len(batch) // 2
            return self._ship(batch[:half]) + self._ship(batch[half:])
        self._spool.settle(dead={batch[0].seq: f"413: {reason}"})
        return ShipResult(sent=1, dead=1)

    def _settle(self, batch: list[Spooled], answer: Mapping[str, Any]) -> ShipResult:
        created, already_there = list[int](), list[int]()
        dead: dict[int, str] = {}
        reason = None
        items = answer.get("items") if isinstance(answer, Mapping) else None
        if not isinstance(items, list) or len(items) != len(batch):
            raise ClusterError("the bulk response does not cover the batch", where=self.where, todo="check proxies")
        for record, item in zip(batch, items, strict=True):
            outcome = item.get("create", {})
            status = outcome.get("status")
            if status == CREATED:
                created.append(record.seq)
            elif status == CONFLICT:
                already_there.append(record.seq)
            elif status in POISON and _error_type(outcome) not in PASSING:
                dead[record.seq] = f"{status}: {_reason(outcome)}"
            else:
                reason = f"{status}: {_reason(outcome)}"
        self._spool.settle(created=created, already_there=already_there, dead=dead)
        if dead:
            logger.warning(
                "OOD shipper: %d records were rejected permanently and set aside (%s). See darl ship --dead-letters.",
                len(dead),
                next(iter(dead.values())),
            )
        deferred = len(batch) - len(created) - len(already_there) - len(dead)
        return ShipResult(len(batch), len(created), len(already_there), len(dead), deferred, reason)

    def _note_failure(self, reason: str) -> None:
        if not self._failing:  # once per outage, not once per attempt
            logger.warning("OOD shipper: %s Records stay in the spool; trying again.", reason)
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            logger.warning("OOD shipper: %s accepts records again.", self.where)
        self._failing = False


def _error_type(outcome: Mapping[str, Any]) -> str:
    return str((outcome.get("error") or {}).get("type"))


def _reason(outcome: Mapping[str, Any]) -> str:
    error = outcome.get("error") or {}
    if refused := explain_refusal(error):
        return "; ".join(refused)
    reason = str(error.get("reason") or error.get("type") or "no reason given")
    cause = error.get("caused_by") or {}
    return " ".join(f"{reason} {cause.get('reason') or ''}".split())[:500]
