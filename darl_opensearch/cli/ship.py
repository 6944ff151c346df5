"""``darl ship``: ship a spool to a cluster."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import CLUSTER, JSON, STREAM
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, one_line
from darl_opensearch.settings import FilePath, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.ood.shipper import Shipper, ShipResult
    from darl_opensearch.ood.spool import Spool


@click.command()
@with_options
def cli(
    spool: FilePath = setting(..., "Spool that a scorer writes.", env=("DARL_SPOOL", "DARL_OOD_LOG")),
    cluster: ClusterOptions = CLUSTER,
    stream: str = STREAM,
    once: bool = setting(True, "Send the spooled records and exit, or run until interrupted.", flag="--once/--follow"),
    dead_letters: bool = setting(False, "Print the records that the cluster rejected permanently, and send nothing."),
    retry_dead_letters: bool = setting(False, "Queue rejected records again first."),
    as_json: bool = JSON,
) -> None:
    """Ship spooled OOD records to the cluster.

    A record leaves the spool once the cluster has acknowledged it; sending one twice is harmless. The data stream is
    created if it does not exist.
    """
    from darl_opensearch.connect import connect
    from darl_opensearch.ood.shipper import Shipper
    from darl_opensearch.ood.spool import Spool

    with Spool.open(spool) as opened:
        if dead_letters:
            _print_dead_letters(opened, as_json)
            return
        if retry_dead_letters:
            note(f"{opened.revive():,} dead letters queued again")
        where = cluster.where
        with Shipper(spool, connect(cluster), stream=stream, where=where) as shipper:
            if once:
                total = _ship_all(shipper, opened.counters()["stored_records"])
            else:
                _follow(shipper, where)
                total = None
        counters = opened.counters()
    left = counters["stored_records"]
    if total is None:
        emit(
            {"left": left, "counters": counters},
            as_json=as_json,
            text=f"{left:,} records are left in the spool",
        )
        return
    text = f"{total.created:,} records written"
    if total.already_there:
        text += f", {total.already_there:,} already present"
    if total.dead:
        text += f", {total.dead:,} rejected permanently (darl ship --spool {spool} --dead-letters shows why)"
    result = {
        "created": total.created,
        "already_there": total.already_there,
        "dead": total.dead,
        "left": left,
    }
    emit(result | {"counters": counters}, as_json=as_json, text=f"{text}; {left:,} left in the spool")
    if total.deferred:
        raise ClusterError(
            f"{total.deferred:,} records were not accepted ({total.reason})", where=where, todo="run it again later"
        )


def _ship_all(shipper: Shipper, expected: int) -> ShipResult:
    with progress_line("shipping", total=expected) as line:
        return shipper.ship_all(
            after_batch=lambda result: line.count(int(line.steps.main.done) + result.sent, expected)
        )


def _follow(shipper: Shipper, where: str) -> None:
    import logging

    logging.basicConfig(format="darl ship: %(message)s", level=logging.WARNING)
    logging.getLogger("opensearch").setLevel(logging.ERROR)  # its warnings are tracebacks, one for each attempt
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    note(f"shipping to {where} until interrupted")
    shipper.run(stop)


def _print_dead_letters(spool: Spool, as_json: bool) -> None:
    letters = spool.dead_letters()
    count = spool.counters()["stored_dead_letters"]
    rows = [
        {"record_id": d.record_id, "reason": d.reason, "failed_at": d.failed_at, "record": json.loads(d.body)}
        for d in letters
    ]
    lines = [f"{d.failed_at}  {d.record_id}  {one_line(d.reason)}" for d in letters]
    text = "\n".join([*lines, f"{count:,} records were rejected permanently; the latest {len(letters)} are shown"])
    emit({"count": count, "dead_letters": rows}, as_json=as_json, text=text)
