"""The detectors' results as Markdown, on the screen and between the markers of the README.

Run as ``python -m benchmarks.ood.report`` to render the README again; ``--check`` says whether it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.pages import Pages, Sections, difference, table

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULT, RISK = HERE / "results" / "detectors.json", HERE / "results" / "risk.json"
SEEN, UNSEEN = "seen items", "unseen items"
FEW = 20  # pairs of seen items, below which their share says nothing


def _span(found: dict[str, float] | None) -> str:
    """A share with its interval, to three places."""
    if found is None:
        return "none"
    mid, low, high = (f"{found[key]:.3f}".replace("0.", ".", 1) for key in ("mean", "low", "high"))
    return f"{mid} [{low}, {high}]"


def render(result: dict[str, Any]) -> str:
    """All tables.

    :param result: what ``detectors`` wrote.
    :return: Markdown.
    """
    config, parts = result["config"], []
    parts.append(
        f"{config['seeds']} repetitions; intervals of {config['draws']} resamples of the queries. AUPR: the strange "
        "pairs are the positives. FPR95: share of them that pass where 95 % of the known ones do; less is better."
    )
    for name, found in result["tables"].items():
        rows = [[system, *(_span(of[key]) for key in ("auroc", "aupr", "fpr95"))] for system, of in found.items()]
        parts.append(table([name, "AUROC", "AUPR", "FPR95"], rows))
    parts.append(f"False alarms at alpha {config['alpha']}, calibrated on held-out queries with items not in the fit:")
    for name, systems in result["false_alarms"].items():
        seen = mean(result["counts"][name]["seen"]) >= FEW
        rows = [[s, _span(of[SEEN] if seen else None), _span(of[UNSEEN])] for s, of in systems.items()]
        parts.append(table([name, SEEN, UNSEEN], rows))
    parts.append("Differences in AUROC, paired over the same resamples, p adjusted by Holm over all of them:")
    rows = [[name, difference(c), f"{c['p_holm']:.4f}"] for name, c in result["claims"].items()]
    parts.append(table(["difference", "AUROC", "p (Holm)"], rows))
    if beside := result["peers"]:
        parts.append(f"Beside pytorch-ood {beside['version']}, AUROC on identical numbers:")
        for part in (key for key in beside if key != "version"):
            rows = [[name, f"{of['ours']:.4f}", f"{of['pytorch-ood']:.4f}"] for name, of in beside[part].items()]
            parts.append(table([part, "ours", "pytorch-ood"], rows))
    rows = [[f"{fit}: {name}", f"{mean(n):.0f}"] for fit, of in result["counts"].items() for name, n in of.items()]
    parts.append("Pairs, mean over repetitions:\n\n" + table(["part", "pairs"], rows))
    where, seconds = result["circumstances"], result["seconds"]
    parts.append(
        f"Took {seconds['all']:.0f} s ({seconds['encode']:.0f} s of it to encode, or to read what was encoded) on "
        f"{where['cpu']}, {where['threads']} threads, on a machine that was doing other things as well; torch "
        f"{where['versions']['torch']}."
    )
    return "\n\n".join(parts)


def render_risk(result: dict[str, Any]) -> str:
    """All tables of what a flag means for a grade.

    :param result: what ``risk`` wrote.
    :return: Markdown.
    """
    config, where = result["config"], result["circumstances"]
    head = [
        "pairs of",
        "pairs",
        "flagged",
        "wrong: flagged",
        "others",
        "times as often",
        "RPS: flagged",
        "others",
    ]
    rows = [
        [name, f"{of['pairs']:,}", *(_span(of[key]) for key in ("share_flagged", "wrong_flagged", "wrong_other")),
         _times(of["wrong_ratio"]), *(_span(of[key]) for key in ("rps_flagged", "rps_other"))]
        for name, of in result["flags"].items()
    ]  # fmt: skip
    orders = list(next(iter(result["areas"].values())))
    areas = [[name, *(_span(of[order]) for order in orders)] for name, of in result["areas"].items()]
    claims = [[name, difference(c), f"{c['p_holm']:.4f}"] for name, c in result["claims"].items()]
    return "\n\n".join([
        f"{config['seeds']} repetitions; intervals of {config['draws']} resamples of the queries. Flagged by `knn` on "
        f"pairs at alpha {config['alpha']}; wrong: the likeliest grade is not the judges'.",
        table(head, rows),
        "Area under the risk–coverage curve, half known and half strange pairs: the mean RPS of the pairs that are "
        "kept, over all shares kept, when those that come last in an order are left out first. *any*: in no order. "
        "Less is better.",
        table(["known pairs and", *orders], areas),
        table(["difference in area", "RPS", "p (Holm)"], claims),
        f"Took {result['seconds']:.0f} s on {where['cpu']}, {where['threads']} threads, on a machine that was doing "
        f"other things as well; torch {where['versions']['torch']}.",
    ])  # fmt: skip


def render_int8(result: dict[str, Any]) -> str:
    """What the quantised graphs change.

    :param result: what ``int8`` wrote.
    :return: Markdown.
    """
    rows = [
        [name, f"{of['ndcg@10']:.4f}".replace("0.", ".", 1), _span(of["false_alarms"]), f"{of['auroc_new_new']:.3f}"]
        for name, of in ((name, result[name]) for name in ("fp32", "int8"))
    ]  # fmt: skip
    return "\n\n".join([
        table(["", "nDCG@10", "flagged of known pairs", "AUROC, new kinds"], rows),
        f"Change of nDCG@10, paired by query: {difference(result['ndcg_change'])} "
        f"({result['int8']['queries']} queries).",
        *(
            f"At export, on {change['queries']} dev and training queries, `{name}` changed it by {change['mean']:+.4f} "
            f"with a standard error of {change['standard_error']:.4f}."
            for name, change in result["exported"].items()
        ),
    ])  # fmt: skip


def _times(found: dict[str, float] | None) -> str:
    """A ratio with its interval."""
    if found is None:
        return "none"
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


INT8 = HERE / "results" / "int8_insurance.json"
SECTIONS: Sections = {"detectors": (RESULT, render), "risk": (RISK, render_risk), "int8": (INT8, render_int8)}
REPORT = Pages((README,), SECTIONS)
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
