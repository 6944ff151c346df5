"""The results as Markdown and as a picture, between the marks of the README.

Run as ``python -m benchmarks.serving.report`` to render the page again; ``--check`` says whether it is stale.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import Pages, Sections, difference, plain, table

HERE = Path(__file__).parent
README, RESULTS, PICTURE = HERE / "README.md", HERE / "results", HERE / "peers.svg"
OURS = ("item states", "pairs")
BASE = {"cold": "item states, int8, cold", "warm": "item states, int8, warm", "thousand": "item states, int8, warm"}
TITLES = {
    "cold": "A: {shown} items that were never seen", "warm": "B: {shown} items of {items:,}, known",
    "thousand": "C: one query, {many:,} items",
}  # fmt: skip


def render_peers(result: dict[str, Any]) -> str:
    """Lay out a table for each workload, fastest engine first."""
    parts = [_describe(result)]
    for workload, rows in result["workloads"].items():
        base = BASE[workload]
        body = []
        for name, row in _by_speed(rows):
            ms, ratio = row["ms"], row["times_ours"].get(base)
            share = result["gemm_share"].get(name) if workload == "cold" else None
            body.append([
                f"**{name}**" if name.startswith(OURS) else name,
                f"{ms['p50']:.1f}", f"{ms['p5']:.1f} to {ms['p95']:.1f}",
                "–" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio),
                *(["–" if share is None else f"{100 * share:.0f} %"] if workload == "cold" else []),
            ])  # fmt: skip
        header = [TITLES[workload].format(**result), "p50, ms", "5 to 95 %", f"times {base}"]
        parts.append(table(header + ["of the GEMM roof"] * (workload == "cold"), body))
    return "\n\n".join(parts)


def _describe(result: Mapping[str, Any]) -> str:
    flags = ", ".join(f"{'' if has else 'no '}{name}" for name, has in result["flags"].items())
    versions = "; ".join(
        f"{side}: " + ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
        for side, numbers in result["versions"].items()
    )
    roof = ", ".join(f"{rate:.0f} GOP/s in {name}" for name, rate in result["gemm_gops"].items())
    return (
        f"{result['processor']}, {result['threads']} threads ({flags}); {result['rounds']} rounds of "
        f"{result['searches']} searches; pairs of {result['mean_tokens_of_a_pair']} tokens on average; {versions}. "
        f"Other work took {result['foreign_cores']:.2f} cores. "
        f"The GEMM roof is ONNX Runtime's best rate for one product: {roof}."
    )


def _by_speed(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(rows.items(), key=lambda row: float(row[1]["ms"]["p50"]))


def render_http(result: dict[str, Any]) -> str:
    """Lay out what HTTP adds, and where it goes."""
    idle, saturated = result["idle"], result["saturated"]
    rows = [
        [name.replace("_", " "), f"{ms['p50']:.2f}", f"{ms['p5']:.2f} to {ms['p95']:.2f}"]
        for name, ms in (idle["ms"] | {f"of it: {name}": ms for name, ms in idle["parts_ms"].items()}).items()
    ]
    rows.append(["of it: socket, framework, threads", f"{idle['rest_ms']:.2f}", ""])
    rates = {name: f"{rate['p50']:.0f}" for name, rate in saturated["requests_per_s"].items()}
    low, high = saturated["http_over_in_process"][1:]
    added = idle["added_ms_mean"]
    return "\n\n".join((
        table(["idle, one request at a time", "p50, ms", "5 to 95 %"], rows),
        f"HTTP adds {idle['added_ms_p50']:.1f} ms to the median (mean {added['mean']:.1f}, {added['low']:.1f} to "
        f"{added['high']:.1f}). With eight clients at once, which share the cores with the service, it answers "
        f"{rates['http']} requests a second where the process itself answers {rates['in_process']}: "
        f"{saturated['http_over_in_process'][0]:.2f} times as many ({low:.2f} to {high:.2f}).",
    ))  # fmt: skip


def render_growth(result: dict[str, Any]) -> str:
    """Lay out growth in items, clients and stored states, and the start."""
    items = [[f"{int(n):,}", f"{ms['p50']:.1f}", f"{ms['p5']:.1f} to {ms['p95']:.1f}"]
             for n, ms in result["by_items"].items()]  # fmt: skip
    clients = [[n, f"{row['ms']['p50']:.1f}", f"{row['searches_per_s']['p50']:.0f}"]
               for n, row in result["by_clients"].items()]  # fmt: skip
    stores = [
        [f"{int(n):,}", f"{row['file_mb']:,.0f}", f"{row['open_ms']:.1f}", f"{row['read_100_ms']['p50']:.1f}",
         f"{row['rss_anon_mib'] - row['rss_anon_mib_before']:.0f}", f"{row['written_per_s']:,}"]
        for n, row in result["stores"].items()
    ]  # fmt: skip
    starts = [[arm, f"{row['seconds']['p50']:.2f}", f"{row['rss_anon_mib']['p50']:.0f}"]
              for arm, row in result["start"].items()]  # fmt: skip
    return "\n\n".join((
        table(["items of a query, warm", "p50, ms", "5 to 95 %"], items),
        table(["clients at once, 100 items each", "p50, ms", "searches a second"], clients),
        table(["states on disk", "MB", "opened in, ms", "100 random ones read in, ms", "MiB anonymous, with those read",
               "written a second"], stores),
        table(["start of `darl serve`", "ready after, s", "MiB anonymous"], starts),
    ))  # fmt: skip


def render_pooling(result: dict[str, Any]) -> str:
    """Lay out what fewer tokens cost."""
    rows = [
        [f"1 of {row['factor']:g}, head {row['head']}", f"{row['bytes'] / 1000:.1f}", plain(row["ndcg@10"]["mean"]),
         difference(row["ndcg_change"]), difference(row["rps_change"]), f"{row['score_off']['mean']:.3f}",
         f"{row['score_off']['max']:.2f}"]
        for row in result["rows"]
    ]  # fmt: skip
    header = ["content tokens left", "kB a state", "nDCG@10", "change", "change of RPS", "score off, mean", "max"]
    return f"{result['queries']} queries, {result['pairs']:,} judged pairs.\n\n{table(header, rows)}"


def draw_peers(result: dict[str, Any]) -> str:
    """Draw the medians of each workload as bars on a logarithmic axis, as SVG."""
    left, bar, width = 300, 16, 420
    body: list[str] = []
    top = 8
    for workload, rows in result["workloads"].items():
        ordered = _by_speed(rows)
        least, most = ordered[0][1]["ms"]["p50"], ordered[-1][1]["ms"]["p50"]
        body.append(f'<text x="8" y="{top + 12}" font-weight="bold">{TITLES[workload].format(**result)}</text>')
        top += 20
        for name, row in ordered:
            value = row["ms"]["p50"]
            length = 20 + (width - 20) * math.log(value / least) / max(math.log(most / least), 1e-9)
            colour = "#0b6" if name.startswith(OURS) else "#999"
            body += [
                f'<text x="{left - 6}" y="{top + 11}" text-anchor="end">{name}</text>',
                f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{bar - 3}" fill="{colour}"/>',
                f'<text x="{left + length + 5:.1f}" y="{top + 11}">{value:,.1f} ms</text>',
            ]
            top += bar
        top += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {top}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>' + "\n".join(body) + "</svg>\n"
    )


SECTIONS: Sections = {
    "peers": (RESULTS / "peers.json", render_peers),
    "http": (RESULTS / "http.json", render_http),
    "growth": (RESULTS / "growth.json", render_growth),
    "pooling": (RESULTS / "pooling.json", render_pooling),
}
REPORT = Pages((README,), SECTIONS, {PICTURE: (RESULTS / "peers.json", draw_peers)})
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
