"""The results as Markdown and as a picture, between the markers of the README.

Run as ``python -m benchmarks.cycle.report`` to render the page again; ``--check`` says whether it is stale.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.cycle.report_gate import render_gate, render_looks
from benchmarks.pages import Pages, Sections, difference, plain, table

HERE = Path(__file__).parent
README = HERE / "README.md"
PICTURE = HERE / "labels.svg"
RESULT = HERE / "results" / "labels.json"
NAMES = {"ndcg": "nDCG", "kappa": "kappa", "cut_kappa": "kappa by cut-points", "macro_f1": "macro-F1", "ece": "ECE"}
COLOURS = {"DASA (herding)": "#c0392b", "contrast": "#2471a3", "random among the flagged": "#7f8c8d"}
LEGEND = "In brackets: 95 % intervals over queries and seeds. * the interval leaves out 0."


def render_labels(result: dict[str, Any]) -> str:
    """Everything that was measured.

    :param result: what ``labels`` wrote.
    :return: Markdown.
    """
    config, where = result["config"], result["circumstances"]
    parts = [
        "### The gap: a model that saw the hidden labels minus one that did not",
        _gaps(result["gaps"]), LEGEND, "### Claims", *_claims(result["claims"]),
    ]  # fmt: skip
    for name, found in result["curves"].items():
        parts += [f"### {name}", *_shift(found)]
        if name in result["ablations"]:
            parts += ["Another unit, and a pool without the filters:", _areas(result["ablations"][name])]
        if name in result["not_flagged"]:
            parts += ["Choosing from the whole pool, not from what is flagged:", *_shift(result["not_flagged"][name])]
    for name, found in result["luck"].items():
        parts += [f"### Luck: {name}", *_luck(found)]
    parts.append(
        f"{len(config['seeds'])} seeds, {config['draws']} resamples; detector {config['detector']}, alpha "
        f"{config['alpha']}. {where['cpu']}; torch {where['versions']['torch']}."
    )
    return "\n\n".join(parts)


def _gaps(gaps: dict[str, Any]) -> str:
    rows = [
        [name, plain(found["OOD"]["ndcg"]["alone"]), _starred(found["OOD"]["ndcg"]["gap"]),
         *(_starred(found["OOD"][m]["gap"]) for m in ("kappa", "cut_kappa", "macro_f1", "ece")),
         _starred(found["ID"]["ndcg"]["gap"])]
        for name, found in gaps.items()
    ]  # fmt: skip
    header = ["", "nDCG without", "nDCG", "kappa", "kappa by cut-points", "macro-F1", "ECE", "ID nDCG"]
    return table(header, rows)


def _claims(claims: dict[str, Any]) -> list[str]:
    return [
        table([f"Area under the curve of {NAMES[measure]}: {family}", "mean [95 %]", "p", "p (Holm)"],
              [[name, difference(c), f"{c['p']:.4f}", f"{c['p_holm']:.4f}"] for name, c in found.items()])
        for measure, families in claims.items() for family, found in families.items() if found
    ]  # fmt: skip


def _shift(found: dict[str, Any]) -> list[str]:
    grid = found["grid"]
    kinds = "; ".join(f"{kind} {n:g}, {left:g}, {flagged:g}" for kind, (n, left, flagged) in found["found"].items())
    sizes = ", ".join(f"{name} {n}" for name, n in found["sizes"].items())
    rows = [
        [name, *(plain(v) for v in values["OOD"]["ndcg"])] for name, values in found["curves"].items()
    ]  # fmt: skip
    needed = found["labels_needed"]
    wanted = [
        [name, *("not reached" if by[name] is None else f"{by[name]:.0f}" for by in needed.values())]
        for name in found["curves"]
    ]
    return [
        f"Queries: {sizes}. In the pool, and left by the filters, and flagged of those: {kinds}. That is "
        f"{found['pairs']:.0f} pairs to choose from.",
        table(["OOD nDCG by labels", *(str(n) for n in grid), "all"], rows),
        _areas(found),
        table(["Labels for this share of the gap", *(f"{float(share):.0%}" for share in needed)], wanted),
    ]


def _areas(found: dict[str, Any]) -> str:
    against = next(name for name in found["areas"] if name not in found["minus_random"])
    keys = ("OOD ndcg", "OOD kappa", "OOD cut_kappa", "OOD macro_f1", "OOD ece", "ID ndcg")
    rows = [
        [name, *(_starred(claims[key]) for key in keys), _starred(found["id_change"][name]),
         f"{found['people_and_new'][name][-1]:.2f}"]
        for name, claims in found["minus_random"].items()
    ]  # fmt: skip
    header = [f"Area minus {against}", *(_title(key) for key in keys), "ID nDCG at the end minus before",
              "OOD queries of people among the judged"]  # fmt: skip
    return table(header, rows)


def _luck(found: dict[str, Any]) -> list[str]:
    rows = [[name, difference(value)] for name, value in found["correlations"].items()]
    return [
        f"{found['draws']} random choices of {found['budget']} flagged pairs on each of {found['seeds']} splits: nDCG "
        f"{plain(found['mean'])}, standard deviation {plain(found['deviation']['choices'])} over choices and "
        f"{plain(found['deviation']['splits'])} over splits.",
        table(["Rank correlation, within a split, of nDCG with what was chosen", "[95 %]"], rows),
    ]


def _title(key: str) -> str:
    part, _, measure = key.partition(" ")
    return f"{part} {NAMES[measure]}"


def _starred(claim: dict[str, float]) -> str:
    return difference(claim) + ("*" if claim["low"] > 0 or claim["high"] < 0 else "")


def draw_labels(result: dict[str, Any]) -> str:
    """Draw the curves of nDCG on OOD queries, one panel a shift.

    :param result: what ``labels`` wrote.
    :return: SVG.
    """
    width, height, left, top = 300, 210, 48, 34
    panels = []
    shown = {n: c for n, c in result["curves"].items() if result["gaps"][n]["OOD"]["ndcg"]["gap"]["low"] > 0}
    for number, (name, found) in enumerate(shown.items()):
        curves = {arm: found["curves"][arm]["OOD"]["ndcg"][:-1] for arm in COLOURS if arm in found["curves"]}
        whole = found["curves"]["random among the flagged"]["OOD"]["ndcg"][-1]
        values = [v for curve in curves.values() for v in curve] + [whole]
        low, high = min(values), max(values)
        inner_w, inner_h = width - left - 12, height - top - 34

        def x(labels: float, last: float = found["grid"][-1], w: float = inner_w) -> float:
            return round(left + w * labels / last, 1)

        def y(value: float, low: float = low, high: float = high, h: float = inner_h) -> float:
            return round(top + h * (high - value) / max(high - low, 1e-9), 1)

        body = [f'<text x="{left}" y="18" font-weight="bold">{name}</text>',
                f'<line x1="{left}" x2="{width - 12}" y1="{y(whole)}" y2="{y(whole)}" stroke="#999" '
                f'stroke-dasharray="4 3"/>',
                f'<text x="{left - 4}" y="{y(low) + 4}" text-anchor="end">{plain(low)}</text>',
                f'<text x="{left - 4}" y="{y(high) + 4}" text-anchor="end">{plain(high)}</text>',
                f'<text x="{left}" y="{height - 16}">0</text>',
                f'<text x="{width - 12}" y="{height - 16}" text-anchor="end">{found["grid"][-1]} labels</text>',
                ]  # fmt: skip
        for arm, curve in curves.items():
            points = " ".join(f"{x(n)},{y(v)}" for n, v in zip(found["grid"], curve, strict=True))
            body.append(f'<polyline fill="none" stroke="{COLOURS[arm]}" stroke-width="2" points="{points}"/>')
        across, down = number % 2, number // 2
        panels.append(f'<g transform="translate({across * width},{down * height})">' + "".join(body) + "</g>")
    rows = (len(panels) + 1) // 2
    legend = "".join(
        f'<text x="{left + place * 190}" y="{rows * height + 16}" fill="{colour}">{arm}</text>'
        for place, (arm, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {rows * height + 28}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "\n".join([*panels, legend]) + "</svg>\n"
    )  # fmt: skip


def render_releases(result: dict[str, Any]) -> str:
    """Lay out searches under releases.

    :param result: what ``benchmarks.cycle.releases`` wrote.
    :return: Markdown.
    """
    header = ["", "searches", "failed", "not reranked", "before, ms", "during a switch, ms", "release, s",
              "rollback, s"]  # fmt: skip
    rows = [
        [
            f"{row['mode']}, keep {row['keep']}", f"{row['all']['searches']:,}", str(row["all"]["failed"]),
            str(row["all"]["not_reranked"]),
            *(_time(row[part]) for part in ("before_the_first", "during_a_switch")),
            f"{statistics.median(row['release_seconds']):.1f}",
            f"{statistics.median(row['rollback_seconds']):.1f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    first = result["rows"][0]
    about = (
        f"OpenSearch {result['opensearch']}, {result['machine']}; {first['releases']} releases and "
        f"{first['rollbacks']} rollbacks a row, {result['clients']} clients, "
        f"{result['searches_per_second']:g} searches a second asked for, {result['pairs_per_search']} pairs a search, "
        f"a model of {result['bundle']['model_bytes'] / 1e6:.1f} MB. Failed means: {result['failed_means']}. "
        "Times: median (95 %)."
    )
    return f"{about}\n\n{table(header, rows)}"


def render_release_states(result: dict[str, Any]) -> str:
    """Lay out searches under releases of a changed encoder; each round of an arm has a row.

    :param result: what ``benchmarks.cycle.release_states`` wrote.
    :return: Markdown.
    """
    parts = ("before", "while_warming", "during_the_release", "first_seconds_after", "later")
    rows = [
        [arm, *(_time(row[part]) if part in row else "" for part in parts),
         *(str(sum(row[part][count] for part in parts if part in row)) for count in ("failed", "not_reranked")),
         f"{row['warm_s']:.1f}" if row["encoded"] else "", f"{row['release_s']:.1f}"]
        for arm, rounds in result["arms"].items()
        for row in rounds
    ]  # fmt: skip
    header = ["", "before, ms", "while warming, ms", "during the release, ms",
              f"first {result['first_seconds']:g} s after, ms", "later, ms", "failed", "not reranked", "warming, s",
              "release, s"]  # fmt: skip
    about = (
        f"OpenSearch {result['opensearch']}, {result['processor']}, {result['cores']} cores; {result['items']:,} "
        f"items, {result['clients']} clients, {result['searches_per_second']:g} searches a second asked for, "
        f"{result['pairs_per_search']} pairs a search, a model of {result['model_bytes'] / 1e6:.1f} MB. Median (95 %)."
    )
    return f"{about}\n\n{table(header, rows)}"


def _time(part: dict[str, Any]) -> str:
    return f"{part['p50_ms']:.0f} ({part['p95_ms']:.0f})"


def render_scale(result: dict[str, Any]) -> str:
    """Lay out what selecting from many queries takes.

    :param result: what ``benchmarks.cycle.scale`` wrote.
    :return: Markdown.
    """
    rows = [
        [f"{found['queries']:,}", f"{found['seconds']:,.0f}", f"{found['cpu_seconds']:,.0f}",
         f"{found['mib_anonymous']:,}", f"{found['mib']:,}"]
        for found in result["selection"].values()
    ]  # fmt: skip
    sparse, embedded = result["sparse"], result["embedding"]["pairs_a_second"]
    random = 100 * sparse["random"]["coverage"] / sparse["dense"]["coverage"]
    about = " ".join((
        f"{result['threads']} threads of {result['cpu']}, load average {result['load_average']:.0f} (other work was",
        f"running); synthetic records and features, {result['config']['items_logged']} logged items a query.",
        f"Embedding is apart: {embedded} pairs a second through the bundle. Among {sparse['candidates']:,} candidates",
        f"the sparse kernel reaches {100 * sparse['share']:.2f} % of the dense one's coverage, random {random:.0f} %.",
    ))  # fmt: skip
    header = ["queries", "seconds", "CPU seconds", "MiB, anonymous", "MiB, with mapped features"]
    return f"{about}\n\n{table(header, rows)}"


def render_items(result: dict[str, Any]) -> str:
    """Lay out what labels of different items of the same queries bring.

    :param result: what ``benchmarks.cycle.items`` wrote.
    :return: Markdown.
    """
    relevant = {(row["items"], row["rule"]): row["relevant"] for row in result["relevant_labels"]}
    names, rules = {"ndcg": "nDCG@10", "rps": "RPS"}, ("even", "leading", "top")
    rows = [
        [f"{row['items']} items, {row['part']}, {names[row['measure']]}", str(row["queries"]),
         *(difference(row["gain"][rule]) for rule in rules),
         *(_starred(row["minus_even"][rule]) for rule in ("leading", "top"))]
        for row in result["rows"]
    ]  # fmt: skip
    found = "; ".join(
        f"of {items} items, " + ", ".join(f"{relevant[items, rule]:.0f} by {rule}" for rule in rules)
        for items in sorted({items for items, _ in relevant})
    )
    about = (
        f"{result['pool_queries']} labelled queries, {result['seeds']} splits. Relevant items among the labelled ones: "
        f"{found}. Gains of the refitted head over the first version, positive is better, with 95 % intervals over "
        f"queries, each averaged over the splits. * the interval leaves out 0. {result['machine']['processor']}."
    )
    header = ["", "queries", "even", "leading", "top", "leading - even", "top - even"]
    return f"{about}\n\n{table(header, rows)}"


_FOLDER = RESULT.parent
SECTIONS: Sections = {
    "labels": (RESULT, render_labels),
    "releases": (_FOLDER / "releases.json", render_releases),
    "release_states": (_FOLDER / "release_states*.json", render_release_states),
    "items": (_FOLDER / "items.json", render_items),
    "gate": (_FOLDER / "gate.json", render_gate),
    "looks": (_FOLDER / "looks.json", render_looks),
    "scale": (_FOLDER / "scale.json", render_scale),
}
REPORT = Pages((README,), SECTIONS, {PICTURE: (RESULT, draw_labels)})
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
