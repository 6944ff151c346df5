"""The sentences of ``docs/measurements.md`` that results on disk make.

Run as ``python -m benchmarks.measurements`` to write them again; ``--check`` says whether they are stale.
"""

from __future__ import annotations

import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.pages import Pages, Sections, difference

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "measurements.md"
OTHERS = ("ONNX Runtime", "OpenVINO", "CrossEncoder", "fastembed", "FlashRank")  # engines that cache nothing


def render_items(result: dict[str, Any]) -> str:
    """The gain by which items of a query are labelled, ten of each."""
    ndcg, rps = (
        next(r for r in result["rows"] if (r["items"], r["part"], r["measure"]) == (10, "new kinds", measure))
        for measure in ("ndcg", "rps")
    )
    gain, more, finer = ndcg["gain"], ndcg["minus_even"]["leading"], rps["minus_even"]["leading"]
    return _wrap(
        f"With ten labels for each of {result['pool_queries']} queries of new kinds, the head refitted: "
        f"{difference(gain['leading'])} nDCG@10 on other queries of new kinds with ranks that grow geometrically, "
        f"{difference(gain['even'])} with even ones; the difference is {difference(more)}, and in RPS "
        + "{} [{}, {}].".format(*(f"{finer[key]:+.5f}".replace("0.", ".", 1) for key in ("mean", "low", "high")))
    )


def render_peers(result: dict[str, Any]) -> str:
    """Known and unseen products beside the engines that cache nothing."""
    warm, cold = result["workloads"]["warm"], result["workloads"]["cold"]
    known, other = _fastest(warm), _fastest(cold)
    times = cold[other]["times_ours"]["item states, int8, cold"]
    return _wrap(
        f"A search of {result['shown']} known products on {_name_cores(result)} takes "
        f"{_ms(warm, 'item states, int8, warm', 1)} ms in int8 and {_ms(warm, 'item states, fp32, warm', 1)} in "
        f"fp32, where the fastest engine that caches nothing ({known}) takes {_ms(warm, known)}, "
        f"sentence-transformers' CrossEncoder {_ms(warm, 'CrossEncoder, default')}, and its MultiVectorEncoder "
        f"with cached embeddings and maxsim-cpu {_ms(warm, 'MultiVectorEncoder and maxsim-cpu, warm')}. Products "
        f"that were never seen take {_ms(cold, 'item states, int8, cold')} ms, {times[0]:.2f} times as fast as the "
        f"fastest of the others ({other}; {times[1]:.2f} to {times[2]:.2f})."
    )


def render_http(result: dict[str, Any]) -> str:
    """What HTTP adds."""
    return f"HTTP adds {result['idle']['added_ms_p50']:.1f} ms."


def render_cluster(result: dict[str, Any]) -> str:
    """A search by mode."""
    modes = ("in the cluster, fp32", "by connector, warm", "in Python, warm")
    fifty, ten = ([f"{result['modes'][f'{mode}, {n}']['p50_ms']:.0f}" for mode in modes] for n in (50, 10))
    return _wrap(
        f"Ten hits of fifty candidates on a real node, {result['cores']} cores: {fifty[0]} ms in the cluster, "
        f"{fifty[1]} by connector and {fifty[2]} in Python once the items' states are known; ten candidates "
        f"{ten[0]}, {ten[1]} and {ten[2]}."
    )


def render_load(result: dict[str, Any]) -> str:
    """A scorer at twice its capacity."""
    rounds = [one["2 x capacity"] for one in result["arms"]["waits for a second at most"]]
    answered, refused = (max(one[key] for one in rounds) for key in ("p50_ms", "refused_p99_ms"))
    return _wrap(
        f"At twice its capacity {_name_scorer(result)} answers those it admits in {answered / 1000:.1f} s (median), "
        f"and refuses the others within {refused:.0f} ms (99 %)."
    )


def render_releases(result: dict[str, Any]) -> str:
    """Searches under releases."""
    rows = result["rows"]
    searches, failed, plain = (sum(row["all"][key] for row in rows) for key in ("searches", "failed", "not_reranked"))
    switches = " and ".join(f"{sum(row[key] for row in rows)} {key}" for key in ("releases", "rollbacks"))
    return _wrap(
        f"{switches} under search load, half of them in the cluster and half by connector: {searches:,} searches, "
        f"{failed} failed, {plain} not reranked."
    )


def render_detectors(result: dict[str, Any]) -> str:
    """The default detector, and the one that reads the catalogue."""
    found = [
        [_three(result["tables"][shift][name]["auroc"]["mean"]) for shift in ("near: Australia", "far: ESCI")]
        for name in ("catalogue, pair", "knn k=5, pair")
    ]
    return _wrap(
        f"`catalogue` separates a neighbouring domain with AUROC {found[0][0]} and an unrelated one with "
        f"{found[0][1]}, the default, `knn`, with {found[1][0]} and {found[1][1]} (both on pairs)."
    )


def render_risk(result: dict[str, Any]) -> str:
    """Whether flagged pairs are graded wrong more often, and what orders errors on a far shift."""
    near, far = result["flags"]["near: Australia"]["wrong_ratio"], result["areas"]["far: ESCI"]
    ratio, low, high = (f"{near[key]:.2f}".removeprefix("0") for key in ("mean", "low", "high"))
    return _wrap(
        f"On a near shift nothing: flagged pairs of a neighbouring domain's pages are graded wrong {ratio} times "
        f"as often as the others [{low}, {high}]. On far ones what the grades do not say themselves: there the "
        f"model is sure and wrong, its expected RPS orders errors worse than chance "
        f"({_three(far['expected RPS']['mean'])} against {_three(far['any']['mean'])}, ESCI after FeedbackQA), and "
        f"the OOD distance orders them better ({_three(far['knn']['mean'])})."
    )


def render_learner(result: dict[str, Any]) -> str:
    """The default learner on ePQA."""
    methods = result["sets"]["epqa"]
    before, after = ({
        measure: _three(statistics.fmean(split[measure] for split in methods[name]["splits"].values()))
        for measure in ("ndcg", "rps")
    } for name in ("untrained", "default, full"))  # fmt: skip
    gain = methods["default, full"]["against"]["untrained"]
    return _wrap(
        f"nDCG@10 {before['ndcg']} untrained, {after['ndcg']} trained, {_change(gain['ndcg'])}; RPS "
        f"{before['rps']} and {after['rps']}, {_change(gain['rps'])} ({gain['ndcg']['n']} test queries)."
    )


def render_feedbackqa(result: dict[str, Any]) -> str:
    """The default head against the cosine, and against binary labels."""
    claims = result["claims"]["ndcg@3"]
    cosine, binary = (
        [difference(claims[f"{part}: graded + rank - {other}"]) for part in ("ID", "OOD")]
        for other in ("cosine", "yes/no + rank")
    )
    return _wrap(
        f"nDCG@3 of the default head minus the base model's cosine is {cosine[0]} on the training domains and "
        f"{cosine[1]} on an unseen domain ({result['config']['splits']} half-splits, paired bootstrap over "
        f"queries). Minus binary labels with the same rank term it is {binary[0]} and {binary[1]}."
    )


def _name_cores(result: dict[str, Any]) -> str:
    flags = result["flags"]
    return f"{result['cores']} cores with " + (
        "AMX" if flags["amx"] else "AVX2" if flags["avx2"] else "neither AVX2 nor AMX"
    )


def _name_scorer(result: dict[str, Any]) -> str:
    """Name precision and processor, which older results do not have."""
    if "flags" not in result:
        return "the scorer"
    return f"a scorer in {'int8' if result['int8'] else 'fp32'} on {_name_cores(result)}"


def _fastest(rows: dict[str, Any]) -> str:
    return min((name for name in rows if name.startswith(OTHERS)), key=lambda name: float(rows[name]["ms"]["p50"]))


def _ms(rows: dict[str, Any], name: str, places: int = 0) -> str:
    return f"{rows[name]['ms']['p50']:.{places}f}"


def _three(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _change(claim: dict[str, Any]) -> str:
    mean, low, high = (f"{claim[key]:+.3f}".replace("0.", ".", 1).replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _wrap(text: str) -> str:
    return textwrap.fill(text.replace(" -.", " −.").replace("[-.", "[−."), 120, break_long_words=False)


SECTIONS: Sections = {
    "items": (HERE / "cycle/results/items.json", render_items),
    "releases": (HERE / "cycle/results/releases.json", render_releases),
    "peers": (HERE / "serving/results/peers.json", render_peers),
    "peers-amx": (HERE / "serving/results/peers-amx.json", render_peers),
    "http": (HERE / "serving/results/http.json", render_http),
    "cluster": (HERE / "serving/results/cluster.json", render_cluster),
    "load": (HERE / "serving/results/load.json", render_load),
    "load-int8-amx": (HERE / "serving/results/load-int8-amx.json", render_load),
    "detectors": (HERE / "ood/results/detectors.json", render_detectors),
    "risk": (HERE / "ood/results/risk.json", render_risk),
    "learner": (HERE / "quality/results/learner.json", render_learner),
    "feedbackqa": (HERE / "quality/results/feedbackqa.json", render_feedbackqa),
}
REPORT = Pages((PAGE,), SECTIONS)
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
