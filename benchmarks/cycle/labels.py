"""What is a label worth? Learning from what a selector chose, on shifts that have a gap to close.

Run as ``python -m benchmarks.cycle.labels``; ``DARL_DATA`` names the folder of real judgments. A run that was broken
off goes on at the next shift. ``python -m benchmarks.cycle.report`` renders the page again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cycle import pool, report
from benchmarks.cycle.areas import DRAWS, adjusted, curve, labels_needed, resampled, state_claim, weights_of_area
from benchmarks.cycle.curves import ABLATIONS, ARMS, MEASURES, NOT_FLAGGED, PARTS, Arm, Curves, ends, trace
from benchmarks.cycle.learner import NEW_DEV
from benchmarks.cycle.luck import BUDGET, luck
from benchmarks.cycle.luck import DRAWS as LUCK_DRAWS
from benchmarks.cycle.shifts import NOISE_ITEMS, NOISE_QUERIES, SHIFTS, Shift, load
from benchmarks.measuring import data_folder
from benchmarks.quality import sets
from benchmarks.quality.compare import BASE
from benchmarks.quality.feedbackqa import circumstances
from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_data
from darl_opensearch.io.writing import write_file

RANDOM, OURS = "random among the flagged", "DASA (herding)"
# "contrast" was chosen among variants on these alone: FeedbackQA's Australian queries, seeds 100 and up. Shifts
# that hold them say nothing new about it.
EXPLORED = ("ESCI → FeedbackQA", "Chorus → FeedbackQA", "FeedbackQA by domain")
CONFIRMING = ("ESCI → UK and CDC", "Chorus → UK and CDC")  # the rest of those; no shifts of their own for other claims
LUCKY, LUCK_SEEDS = "ESCI → FeedbackQA", 5
# What is drawn, the first row of each the one that the others are compared with; and on which shifts, none: all.
KINDS: dict[str, tuple[Mapping[str, Arm], tuple[str, ...]]] = {
    "curves": ({RANDOM: ARMS[RANDOM], **ARMS}, ()),
    "ablations": ({RANDOM: ARMS[RANDOM], **ABLATIONS}, ("ESCI → FeedbackQA",)),
    "not_flagged": (NOT_FLAGGED, ("ESCI → Chorus",)),
}
CLAIMED = ("ndcg", "kappa", "cut_kappa")  # what a gap is looked for in, and a claim is made of where there is one
SHARES = (0.5, 0.75, 0.95)  # of the gap


def measure_gap(folder: Path, shift: Shift, work: Path, *, seeds: Sequence[int]) -> dict[str, Any]:
    """Measure what the hidden labels are worth: a model that saw all of them minus one that saw none.

    :param folder: what ``DARL_DATA`` names.
    :param shift: the shift.
    :param work: where features are kept.
    :param seeds: one a repetition.
    :return: JSON-ready figures and claims, by part and measure.
    """
    tables = ends(load(folder, shift, work), shift, seeds)
    found: dict[str, Any] = {}
    for part in PARTS:
        for measure in MEASURES:
            table = tables[part][measure]
            change = state_claim(resampled(table, np.array([-1.0, 1.0])))
            alone, every = curve(table)
            found.setdefault(part, {})[measure] = {"alone": alone, "all": every, "gap": change}
    return found


def has_gap(found: dict[str, Any], measure: str) -> bool:
    """Say whether a shift has a gap.

    :param found: of :func:`measure_gap`.
    :param measure: one of ``CLAIMED``.
    :return: whether its 95 % interval lies above 0.
    """
    return bool(found["OOD"][measure]["gap"]["low"] > 0)


def summarise(curves: Curves, against: str) -> dict[str, Any]:
    """Put curves into figures and claims.

    :param curves: of one shift.
    :param against: the row that the others are compared with.
    :return: JSON-ready.
    """
    area = np.array([*weights_of_area(curves.grid), 0.0])
    last = np.zeros(len(curves.grid) + 1)
    last[0], last[-2] = -1.0, 1.0
    drawn = {
        name: {f"{part} {m}": resampled(tables[part][m], area) for part in PARTS for m in MEASURES}
        for name, tables in curves.tables.items()
    }
    values = {n: {p: {m: curve(t[p][m]) for m in MEASURES} for p in PARTS} for n, t in curves.tables.items()}
    return {
        "grid": list(curves.grid), "pairs": round(curves.every, 1), "sizes": curves.sizes,
        "found": {kind: [round(float(np.mean([f[kind][i] for f in curves.found])), 1) for i in range(3)]
                  for kind in curves.found[0]},
        "people_and_new": curves.chosen, "curves": values,
        "areas": {name: {key: round(d.point, 5) for key, d in found.items()} for name, found in drawn.items()},
        "minus_random": {
            name: {key: state_claim(d.minus(drawn[against][key])) for key, d in found.items()}
            for name, found in drawn.items() if name != against
        },
        "id_change": {name: state_claim(resampled(t["ID"]["ndcg"], last)) for name, t in curves.tables.items()},
        "ood_change": {name: state_claim(resampled(t["OOD"]["ndcg"], last)) for name, t in curves.tables.items()},
    }  # fmt: skip


def needed(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Find how many labels bring a share of the gap.

    :param found: of :func:`summarise`.
    :return: by share and row, labels; None where the curve, which ends at half of the pool, does not reach it.
    """
    ndcg = {name: values["OOD"]["ndcg"] for name, values in found["curves"].items()}
    labels: dict[str, dict[str, float | None]] = {}
    for share in SHARES:
        for name, (*points, whole) in ndcg.items():
            reached = labels_needed(found["grid"], points, points[0] + share * (whole - points[0]))
            labels.setdefault(str(share), {})[name] = None if reached is None else round(reached, 1)
    return labels


def kept(path: Path, facts: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Take what was worked out before, or work it out.

    :param path: where it is kept, without what is added for its facts.
    :param facts: what it depends on.
    :param make: works it out.
    :return: the result.
    """
    key = digest_data(json.dumps(facts, sort_keys=True, default=str))[:12]
    path = path.with_name(f"{path.name}-{key}.json")
    if not path.is_file():
        write_file(path, json.dumps(make()))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def run(
    folder: Path, work: Path, *, seeds: Sequence[int], only: Sequence[str], say: Callable[[str], object]
) -> dict[str, Any]:
    """Run everything.

    :param folder: what ``DARL_DATA`` names.
    :param work: where features and finished shifts are kept.
    :param seeds: one a repetition.
    :param only: shifts to run.
    :param say: called with what was just done.
    :return: JSON-ready result.
    """
    torch.set_num_threads(1)  # a head of twelve features: more threads only wait for each other
    gaps: dict[str, Any] = {}
    curves: dict[str, dict[str, Any]] = {}
    for name in only:
        shift, facts = SHIFTS[name], [asdict(SHIFTS[name]), list(seeds)]
        gaps[name] = kept(work / f"gap-{name}", facts, partial(measure_gap, folder, shift, work, seeds=seeds))
        say(f"{name}: gap {gaps[name]['OOD']['ndcg']['gap']}")
    for name in only:
        if not any(has_gap(gaps[name], measure) for measure in CLAIMED):
            continue
        shift, facts = SHIFTS[name], [asdict(SHIFTS[name]), list(seeds)]
        for kind, (arms, where) in KINDS.items():
            if where and name not in where:
                continue

            def drawn(shift: Shift = shift, kind: str = kind, arms: Mapping[str, Arm] = arms) -> dict[str, Any]:
                found = trace(load(folder, shift, work), shift, arms, seeds, say, flagged=kind != "not_flagged")
                return summarise(found, next(iter(arms)))

            described = {n: asdict(arm) for n, arm in arms.items()}
            found = kept(work / f"{kind}-{name}", [*facts, described], drawn)
            curves.setdefault(kind, {})[name] = {**found, "labels_needed": needed(found)}
    if LUCKY in only:
        shift, tried = SHIFTS[LUCKY], list(seeds)[:LUCK_SEEDS]
        found = kept(work / f"luck-{LUCKY}", [asdict(shift), tried, BUDGET, LUCK_DRAWS],
                     lambda: luck(load(folder, shift, work), shift, tried, say))  # fmt: skip
        curves["luck"] = {LUCKY: found}
    return {
        "gaps": gaps, **{kind: curves.get(kind, {}) for kind in (*KINDS, "luck")},
        "claims": families(gaps, curves.get("curves", {})),
        "config": {
            "seeds": list(seeds), "draws": DRAWS, "base": asdict(BASE), "items": pool.ITEMS, "alpha": pool.ALPHA,
            "detector": pool.DETECTOR, "id_shares": pool.ID_SHARES, "pool_share": pool.POOL_SHARE,
            "noise_share": pool.NOISE_SHARE, "noise": [NOISE_QUERIES, NOISE_ITEMS], "new_dev": NEW_DEV,
            "select": asdict(pool.SELECT), "explored": list(EXPLORED),
            "shifts": {name: asdict(SHIFTS[name]) for name in only},
            "data": sets.digests(folder, sorted({f for name in only for f in SHIFTS[name].folders})),
        },
        "circumstances": circumstances(),
    }  # fmt: skip


def families(gaps: dict[str, Any], curves: dict[str, Any]) -> dict[str, Any]:
    """Claims over all shifts with a gap in a measure, adjusted together.

    :param gaps: by shift.
    :param curves: by shift.
    :return: by measure and family.
    """
    found: dict[str, Any] = {}
    for measure in CLAIMED:
        with_gap = [name for name in curves if has_gap(gaps[name], measure)]
        sides = {
            f"{OURS} - {RANDOM}": (OURS, [name for name in with_gap if name not in CONFIRMING]),
            f"contrast - {RANDOM}": ("contrast", [name for name in with_gap if name not in EXPLORED]),
        }
        found[measure] = {
            family: adjusted({name: curves[name]["minus_random"][ours][f"OOD {measure}"] for name in names})
            for family, (ours, names) in sides.items()
        }
    return found


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle.labels", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="repetitions (default: 10)")
    parser.add_argument("--work", type=Path, default=Path("runs") / "labels", help="where features are kept")
    parser.add_argument("--out", type=Path, default=report.RESULT, help="JSON to write")
    parser.add_argument("--only", action="append", choices=list(SHIFTS), default=[],
                        help="run this shift, keep it in --work, and write no result")  # fmt: skip
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error("--seeds must be at least 2: seeds are resampled")
    try:
        result = run(
            data_folder(), args.work, seeds=range(args.seeds), only=args.only or list(SHIFTS),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    if args.only:
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report.render_labels(result))
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
