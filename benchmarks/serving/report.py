"""The results as Markdown and as a picture, between the marks of the README.

Run as ``python -m benchmarks.serving.report`` to render the page again; ``--check`` says whether it is stale.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import Pages, Sections, difference, plain, table
from benchmarks.serving.peers import ENGINES

HERE = Path(__file__).parent
README, RESULTS, PICTURE = HERE / "README.md", HERE / "results", HERE / "peers.svg"
OURS = ("item states", "pairs")
SHAPES = ("2 passes of 1 thread", "1 pass of 2 threads", "2 passes of 2 threads")
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
        missing = [engine.name for engine in ENGINES if workload in engine.workloads and engine.name not in rows]
        body += [[name, "not measured", "", ""] + [""] * (workload == "cold") for name in missing]
        header = [TITLES[workload].format(**result), "p50, ms", "5 to 95 %", f"times {base}"]
        parts.append(table(header + ["of the GEMM roof"] * (workload == "cold"), body))
    starts = sorted(result.get("start", {}).items(), key=lambda row: float(row[1]["open_s"]))
    body = [[name, f"{row['open_s']:.1f}", f"{row['rss_anon_mib']:.0f}"] for name, row in starts]
    body = body or [["every engine", "not measured", "not measured"]]
    parts.append(table(["E: start and memory", "open after, s", "MiB anonymous, at the end"], body))
    return "\n\n".join(parts)


def _name_machine(result: Mapping[str, Any]) -> str:
    """Name processor, cores and instructions, and the precision where a result has one."""
    precision = {True: "; int8", False: "; fp32"}.get(result.get("int8"), "")  # type: ignore[arg-type]
    if "processor" not in result:
        return f"{result['cores']} cores; which processor it was is not in this result{precision}."
    return f"{result['processor']}, {result['cores']} cores ({_list_flags(result)}){precision}."


def _list_flags(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{'' if has else 'no '}{name}" for name, has in result["flags"].items())


def _describe(result: Mapping[str, Any]) -> str:
    versions = "; ".join(
        f"{side}: " + ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
        for side, numbers in result["versions"].items()
    )
    roof = ", ".join(f"{rate:.0f} GOP/s in {name}" for name, rate in result["gemm_gops"].items())
    return (
        f"{result['processor']}, {result['threads']} threads ({_list_flags(result)}); {result['rounds']} rounds of "
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
        _name_machine(result),
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
        _name_machine(result),
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


def render_load(result: dict[str, Any]) -> str:
    """Lay out every stretch under load; its rounds side by side."""
    body = []
    for arm, rounds in result["arms"].items():
        for rate in rounds[0]:
            found = [rows[rate] for rows in rounds]
            body.append([
                f"{rate}; {arm}", *(_side_by_side(row[name] for row in found) for name in (
                    "answered_per_s", "refused", "p50_ms", "p99_ms", "refused_p99_ms",
                ))
            ])  # fmt: skip
    header = ["arriving; budget for waiting", "answered a second", "share refused", "p50 of the answered, ms",
              "p99, ms", "p99 of a refusal, ms"]  # fmt: skip
    about = f"{result['documents']} documents a request, {result['rounds']} rounds of {result['seconds']:g} seconds."
    return f"{_name_machine(result)} {about}\n\n{table(header, body)}"


def _side_by_side(values: Iterable[float | None]) -> str:
    return ", ".join("–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:g}" for value in values)


def render_cluster(result: dict[str, Any]) -> str:
    """Lay out the searches of each mode, a column for each number of candidates."""
    cells: dict[str, dict[str, str]] = {}
    for name, ms in result["modes"].items():
        mode, depth = name.rsplit(", ", 1)
        cells.setdefault(mode, {})[depth] = f"{ms['p50_ms']:.0f} ({ms['p5_ms']:.0f} to {ms['p95_ms']:.0f})"
    depths = sorted({depth for row in cells.values() for depth in row}, key=int)
    header = ["mode", *(f"{depth} candidates, ms" for depth in depths)]
    body = [[mode, *(row.get(depth, "") for depth in depths)] for mode, row in cells.items()]
    searches = f"{result['rounds'] * result['queries']} searches a cell, median (5 % to 95 %)."
    return f"{_name_machine(result)} {searches}\n\n{table(header, body)}"


def render_profile(result: dict[str, Any]) -> str:
    """Lay out the parts of a search, the groups of nodes in its graphs, and what grades and OOD cost."""
    arms = result["arms"]
    names = _by_size([arm["parts_ms"] for arm in arms.values()])
    parts = [[name, *(_ms(arm["parts_ms"].get(name)) for arm in arms.values())] for name in names]
    parts.append(["**together, one thread**", *(f"**{arm['mean_ms']:.2f}**" for arm in arms.values())])
    parts.append(["p50 on all cores", *(f"{arm['ms_all_threads']['p50']:.2f}" for arm in arms.values())])
    graphs = []
    for graph in ("meet.onnx", "encoder"):
        groups = _by_size([arm["nodes"][graph] for arm in arms.values()])
        graphs += [
            [f"{graph}: {group}", *(_percent(arm["nodes"][graph].get(group)) for arm in arms.values())]
            for group in groups
        ]
    shares = [
        ["grades and OOD columns, ms", *(_ms(arm["grades_and_ood"]["ms"]) for arm in arms.values())],
        ["share of the request", *(_percent(arm["grades_and_ood"]["share"]) for arm in arms.values())],
        ["with the kernels that the head reads",
         *(_percent(arm["grades_and_ood"]["share_with_kernels"]) for arm in arms.values())],
        ["all columns, times the score alone", *("{:.3f} ({:.3f} to {:.3f})".format(
            *arm["grades_and_ood"]["all_columns_over_score_alone"]) for arm in arms.values())],
        ["encoder, share of the GEMM roof",
         *(_percent(arm["gemm"]["encoder_share"] if "gemm" in arm else None) for arm in arms.values())],
        ["its matrix products alone",
         *(_percent(arm["gemm"]["products_share"] if "gemm" in arm else None) for arm in arms.values())],
    ]  # fmt: skip
    return "\n\n".join((
        f"{_name_machine(result)} {result['shown']} items of {result['mean_tokens_of_an_item']} tokens on average; "
        f"means of {result['rounds']} warm and {result['cold_rounds']} cold requests.",
        table(["mean of a request, ms", *arms], parts),
        table(["of the graph's time", *arms], graphs),
        table(["grades and OOD; roof", *arms], shares),
    ))  # fmt: skip


def _by_size(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """List the names of rows, those with the largest value first."""
    largest = {name: max(row.get(name, 0.0) for row in rows) for row in rows for name in row}
    return sorted(largest, key=lambda name: -largest[name])


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def render_threads(result: dict[str, Any]) -> str:
    """Lay out passes side by side times threads of a pass."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for workload, rows in result["workloads"].items():
        for name, row in rows.items():
            plain_name, _, shape = name.partition("; ")
            cells.setdefault((workload, plain_name), {})[shape or SHAPES[0]] = row
    body = []
    for (_, name), row in cells.items():
        base = row[SHAPES[0]]["ms"]["p50"]
        body.append([name, *(
            f"{row[shape]['ms']['p50']:.1f} ({row[shape]['ms']['p50'] / base:.2f})" if shape in row else "not measured"
            for shape in SHAPES
        )])  # fmt: skip
    return f"{_describe(result)}\n\n{table([f'p50, ms (times {SHAPES[0]})', *SHAPES], body)}"


def render_merging(result: dict[str, Any]) -> str:
    """Lay out what merging small requests gains."""
    body = [
        [name, *(f"{row[way]['p50']:.1f}" for way in ("in_turns_ms", "merged_ms")),
         *(f"{row[way]['p50']:.1f}" for way in ("in_turns_client_ms", "merged_client_ms")),
         "{:.2f} ({:.2f} to {:.2f})".format(*row["in_turns_over_merged"])]
        for name, row in result["arms"].items()
    ]  # fmt: skip
    header = ["", "in turns: all answered after, ms", "merged", "in turns: mean of a client, ms", "merged",
              "in turns, times merged"]  # fmt: skip
    about = f"{result['clients']} clients at once, {result['documents']} documents each, {result['rounds']} rounds."
    return f"{_name_machine(result)} {about}\n\n{table(header, body)}"


def render_batching(result: dict[str, Any]) -> str:
    """Lay out what batches of the least cost save."""
    parts = [f"{_name_machine(result)} {result['rounds']} searches a cell; ratios to batches as full as allowed."]
    for arm, sizes in result["arms"].items():
        plans = list(next(iter(sizes.values())))
        header = [f"{arm}, fp32, p50, ms (ratio)", *(f"{documents} documents" for documents in sizes)]
        body = [
            [plan, *("{:.1f} ({:.2f}, {:.2f} to {:.2f})".format(rows[plan]["ms"]["p50"], *rows[plan]["over_full"])
                     for rows in sizes.values())]
            for plan in plans
        ]  # fmt: skip
        parts.append(table(header, body))
    return "\n\n".join(parts)


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


RENDER = {
    "peers": render_peers, "profile": render_profile, "threads": render_threads, "http": render_http,
    "growth": render_growth, "pooling": render_pooling, "load": render_load, "merging": render_merging,
    "batching": render_batching, "cluster": render_cluster,
}  # fmt: skip
SECTIONS: Sections = {name: (RESULTS / f"{name}*.json", render) for name, render in RENDER.items()}
REPORT = Pages((README,), SECTIONS, {PICTURE: (RESULTS / "peers.json", draw_peers)})
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
