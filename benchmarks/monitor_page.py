"""How long the monitor's page takes over a large spool: ``python -m benchmarks.monitor_page [--records 10000000]``.

Records are generated in SQL: requests of a month in three slices and two versions, each with nine pairs. Then the
roll-ups are brought up to date, as a writer would have done; the figures are read; and, where Chromium is, the page is
opened until its first paint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import uvicorn

from darl_opensearch.io.listening import listen
from darl_opensearch.monitor.figures import Filters
from darl_opensearch.monitor.web import Traffic, create_monitor_app
from darl_opensearch.ood.rollup import Rollup
from darl_opensearch.ood.spool import Spool

START_MS = 1_772_323_200_000  # 2026-03-01
MONTH_MS = 30 * 86_400_000
PAIRS = 9
_COMMON = """
  '"@timestamp":"2026-03-01T00:00:00.000Z","record_id":"' || printf('%032x', {id}) || '","request_id":"r' || i ||
  '","query":"' || CASE WHEN i % 2 THEN 'frequent ' || (i * 7919 % 20000) ELSE 'rare words ' || i END ||
  '","slice":"' || CASE i % 3 WHEN 0 THEN 'pet' WHEN 1 THEN 'travel' ELSE 'cyber' END ||
  '","model":"m","version":"' || (1 + (i > :n / 2)) || '","alpha":0.05,"route":"server"'"""
_REQUEST = f"""
INSERT INTO record (record_id, timestamp_ms, kind, body, bytes)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
SELECT printf('%032x', i * {PAIRS + 1}), {START_MS} + i * {MONTH_MS} / :n, 'request',
  '{{"kind":"request",' || {_COMMON.format(id=f"i * {PAIRS + 1}")} || ',"reranked":' ||
  CASE WHEN i % 500 THEN 'true,"candidates":100' ELSE 'false,"candidates":0' END || ',"ood_pairs":' ||
  CASE WHEN i % 500 THEN (i * 31 % 11) ELSE 0 END || ',"max_ood_distance":1.5,"latency_ms":' ||
  (5 + i * 17 % 90) || '}}', 900
FROM n"""
_PAIR = f"""
INSERT INTO record (record_id, timestamp_ms, kind, body, bytes)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end),
  k(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < {PAIRS})
SELECT printf('%032x', i * {PAIRS + 1} + k), {START_MS} + i * {MONTH_MS} / :n, 'pair',
  '{{"kind":"pair",' || {_COMMON.format(id=f"i * {PAIRS + 1} + k")} || ',"position":' || k || ',"item_id":"item-' ||
  (i * 13 % 50000) || '","item_text":"' || printf('text of an item %d ', i) || printf('%.200c', 'x') ||
  '","score":0.5,"grade":' || ((i + k) % 4) || ',"grade_probs":[0.1,0.2,0.3,0.4],"ood_score":0.97,' ||
  '"ood_distance":1.2,"is_ood":' || CASE WHEN k <= 5 THEN 'true,"weight":1.0' ELSE 'false,"weight":20.0' END || '}}',
  900
FROM n, k"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--spool", type=Path, help="keep it there, and use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.spool or Path(folder) / "ood.sqlite"
        figures: dict[str, object] = {"records": options.records}
        if not path.exists():
            with _timed(figures, "generate_s"), Spool.open(path, create=True) as spool:
                _generate(spool, options.records // (PAIRS + 1))
        with _timed(figures, "catch_up_s"), Spool.open(path) as spool:
            Rollup(spool).update()
        figures["bytes"] = path.stat().st_size
        traffic = Traffic(path, "generated")
        with _timed(figures, "figures_s"):
            traffic.read(Filters())
        with _timed(figures, "figures_of_a_slice_s"):
            traffic.read(Filters(slice="pet", model="m 2"))
        figures |= _paint(traffic)
        print(json.dumps(figures, indent=2))


class _timed:
    def __init__(self, figures: dict[str, object], name: str) -> None:
        self._figures, self._name = figures, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._figures[self._name] = round(time.perf_counter() - self._start, 2)


def _generate(spool: Spool, requests: int, batch: int = 100_000) -> None:
    for first in range(0, requests, batch):
        values = {"first": first, "end": min(first + batch, requests), "n": requests}
        with spool.writing() as db:
            db.execute(_REQUEST, values)
            db.execute(_PAIR, values)


def _paint(traffic: Traffic) -> dict[str, object]:
    """Open the page three times; the seconds from the request to the first paint, and to the end of loading."""
    try:
        from tests.helpers.browser import chromium
    except ImportError:
        return {}
    with listen("127.0.0.1", 0, todo="") as socket, chromium() as browser:
        app = create_monitor_app(traffic, Filters())
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        sheet = browser.new_page()
        paints, loads = [], []
        for _ in range(3):
            sheet.goto(f"http://127.0.0.1:{socket.getsockname()[1]}/")
            while not sheet.evaluate("performance.getEntriesByType('paint').length"):  # the page's policy forbids eval
                sheet.wait_for_timeout(10)
            paints.append(sheet.evaluate("performance.getEntriesByType('paint')[0].startTime") / 1000)
            loads.append(sheet.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
        server.should_exit = True
        thread.join(10)
    return {"first_paint_s": [round(s, 2) for s in paints], "loaded_s": [round(s, 2) for s in loads]}


if __name__ == "__main__":
    main()
