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
RESULT = HERE / "results" / "detectors.json"
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


SECTIONS: Sections = {"detectors": (RESULT, render)}
REPORT = Pages((README,), SECTIONS)
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
