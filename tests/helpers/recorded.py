"""Folders of runs and cycles with chosen figures, as training and cycle leave them, and no training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from trainer.config import parse_config

EVIL = "</script><script>document.title='had'</script><img src=x onerror=\"document.title='had'\">"
GRADES = ["none", "some <b>", "all"]
SETTINGS: dict[str, Any] = {
    "model": {"name": "small", "version": "2"},
    "data": {"items": "items.jsonl", "judgments": "judgments.jsonl", "ood_dev": "ood_dev.jsonl"},
    "grades": {"names": GRADES},
    "template": {"fields": ["title"]},
    "stages": {"run": ["head", "full", "augmented", "interpolate"]},
    "seed": 7,
}


def interval(mean: float, apart: float = 0.05, n: int = 20) -> dict[str, Any]:
    """A figure with an interval of that width to each side."""
    return {"mean": round(mean, 5), "low": round(mean - apart, 5), "high": round(mean + apart, 5), "n": n}


def figures(ndcg: float) -> dict[str, Any]:
    return {"ndcg@10": ndcg, "macro_f1": 0.5, "quadratic_kappa": 0.6, "ece": 0.03, "queries": 20, "pairs": 100}


def _stage(name: str, dev: float, ood: float, *, kept: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "stage": name, "kept": kept, "rps_gain": interval(0.01, 0.004, 30), "gain": interval(0.02, 0.03, 28),
        "judged_on": ["dev"], "out_of_fold": 0, "figures": {"dev": figures(dev), "ood_dev": figures(ood)},
        "ndcg_intervals": {"dev": interval(dev), "ood_dev": interval(ood, 0.1, 7), "gap": interval(dev - ood, 0.12, 7)},
        "history": [], **more,
    }  # fmt: skip


STAGES = [
    _stage("head", 0.75, 0.5, out_of_fold=12, history=[
        {"step": 0, "train_loss": 2.0, "dev_loss": 1.5}, {"step": 1, "train_loss": 1.0, "dev_loss": 1.25},
    ]),
    _stage("full", 0.7, 0.45, kept=False, history=[
        {"step": 0.0, "dev_rps": 0.2}, {"step": 6.0, "dev_rps": 0.25, "train_loss": 0.75},
    ]),
    _stage("augmented", 0.72, 0.62, judged_on=["dev", "ood_dev"], decided_by="interpolate", learnt_new=True,
           history=[{"step": 0.0, "dev_rps": 0.2}, {"step": 3.0, "dev_rps": 0.15, "train_loss": 0.5}]),
    _stage("interpolate", 0.74, 0.6, judged_on=["dev", "ood_dev"], decided_by="interpolate", learnt_new=True,
           coefficient=0.5, tolerance=0.01, curve=[
               {"coefficient": c, "id_ndcg": 0.75, "id_rps": i, "ood_ndcg": 0.6, "ood_rps": o}
               for c, i, o in ((0.0, 0.1, 0.3), (0.5, 0.12, 0.2), (1.0, 0.2, 0.25))
           ]),
]  # fmt: skip
BINS = [{"pairs": 50, "confidence": 0.6, "accuracy": 0.5}, {"pairs": 50, "confidence": 0.9, "accuracy": 0.96}]
OOD_BINS = [{"pairs": 40, "confidence": 0.7, "accuracy": 0.4}]
CONFUSION = [[60, 6, 0], [10, 8, 2], [0, 4, 10]]
FLAGGED = ("wrong_flagged", "wrong_other", "wrong_ratio", "rps_flagged", "rps_other")
RESULT: dict[str, Any] = {
    "start": figures(0.6), "ood_dev_start": figures(0.4), "dev": figures(0.74), "ood_dev": figures(0.6),
    "ndcg_intervals": {
        "start": interval(0.6), "ood_dev_start": interval(0.4), "gap_start": interval(0.2),
        "dev": interval(0.74), "ood_dev": interval(0.6), "gap": interval(0.14),
    },
    "grading": {
        "dev": {"confusion": CONFUSION, "reliability": BINS},
        "ood_dev": {"confusion": [[30, 0, 0], [8, 2, 0], [0, 0, 0]], "reliability": OOD_BINS},
    },
    "dev_slices": {EVIL: {"queries": 9, "start": 0.5, "trained": 0.625}},
    "ood": {
        "detector": "knn", "features": "pair", "alpha": 0.05, "calibration_pairs": 1437, "calibration_queries": 117,
        "false_alarms_unseen_items": interval(0.047, 0.01), "false_alarms_seen_items": None,
        "flagged": {"dev": {"flagged": 13, "pairs": 100} | {name: interval(0.25) for name in FLAGGED}},
    },
}  # fmt: skip
DATA = {
    "train": {"queries": 72, "pairs": 990, "sha256": "a" * 64},
    "dev": {"queries": 24, "pairs": 100, "sha256": "b" * 64},
    "ood_dev": {"queries": 8, "pairs": 75, "sha256": "c" * 64}, "items": {"count": 156, "sha256": "d" * 64},
}  # fmt: skip


def write_run(folder: Path, *, finished: bool = True, stages: int = 4, ood_dev: bool = True) -> Path:
    """The folder of a run through four stages, or of one that was interrupted after some."""
    done, result = copy.deepcopy(STAGES[:stages]), copy.deepcopy(RESULT)
    data = {role: found for role, found in DATA.items() if ood_dev or role != "ood_dev"}
    if not ood_dev:
        for stage in done:
            del stage["figures"]["ood_dev"], stage["ndcg_intervals"]["ood_dev"], stage["ndcg_intervals"]["gap"]
        for key in ("ood_dev", "ood_dev_start"):
            del result[key], result["ndcg_intervals"][key]
        del result["ndcg_intervals"]["gap"], result["ndcg_intervals"]["gap_start"], result["grading"]["ood_dev"]
    write(folder / "config.json", parse_config(SETTINGS, where="settings").to_json())
    write(folder / "data.json", data)
    (folder / "root.txt").write_text(".")
    for number, stage in enumerate(done):
        write(folder / f"stages/{number}-{stage['stage']}.json", stage)
    if finished:
        write(folder / "result.json", result | {"stages": done})
    return folder


def _change(measure: str, mean: float, apart: float, gain: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "measure": measure, "lower_is_better": measure == "rps", "old": interval(0.8), "new": interval(0.8 + mean),
        "change": interval(mean, apart, 44) | {"p": 0.0586}, "sd": 0.05, "detectable": 0.0206, "needed": 678,
        "gain": gain,
    }  # fmt: skip


GAIN = {
    "holds": False, "clear": False, "p": 0.31, "level": 0.05, "left": interval(-0.0001, 0.0004, 44),
    "detectable": 0.0014, "needed": None,
}  # fmt: skip
REASON = f"in-distribution queries: 48 queries are too few to decide {EVIL}"
GATE: dict[str, Any] = {
    "passed": False, "reasons": [REASON, "control arm: no clear gain"], "measure": "ndcg@10", "tolerance": 0.02,
    "options": {"draws": 10000, "seed": 0, "min_queries": 30},
    "conditions": {
        "id": {"part": "id", "bound": -0.02, "queries": 48, "passed": False,
               "changes": [_change("ndcg@10", -0.012, 0.016), _change("rps", 0.0002, 0.0009)]},
        "control": {"part": "control", "bound": -0.02, "queries": 49, "passed": False,
                    "changes": [_change("ndcg@10", -0.0033, 0.011, GAIN | {"left": None}),
                                _change("rps", 0.0001, 0.001, GAIN)]},
    },
    "looks": [
        {"look": n, "of": 2, "queries": 25 * n, "planned": 50, "level": 0.01, "shared_level": 0.005, "bound": -0.02,
         "measures": {"ndcg@10": {"change": interval(-0.01 / n, 0.02, 22), "p": 0.4, "level": 0.01, "left": None},
                      "rps": {"change": interval(0.001, 0.002, 25), "p": 0.4, "level": 0.01, "left": None}},
         "chance": 0.5 if n == 1 else None, "decision": "continue" if n == 1 else "no"}
        for n in (1, 2)
    ],
    "decided": "decided at look 2 of 2: no label was spared",
    "checks": [{"check": "grades", "passed": True, "detail": "same"},
               {"check": "template", "passed": False, "detail": f"another {EVIL}"}],
}  # fmt: skip


def _row(system: str, part: str, ndcg: float, bins: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "system": system, "part": part, "queries": 48, "pairs": 100, "figures": {"ndcg@10": interval(ndcg)},
        "confusion": CONFUSION, "reliability": bins,
    }  # fmt: skip


EVALUATION: dict[str, Any] = {
    "cutoffs": [10], "grades": [{"name": name, "gain": grade} for grade, name in enumerate(GRADES)],
    "parts": [{"name": "id"}, {"name": "control"}], "draws": 2000, "seed": 0,
    "systems": [{"name": "small-2", "evaluated": True}, {"name": "small-1", "evaluated": False}],
    "figures": [
        _row("small-2", "id", 0.82, BINS), _row("small-2", "control", 0.71, OOD_BINS),
        _row("small-1", "id", 0.83, BINS), _row("small-1", "control", 0.65, BINS),
    ],
    "gaps": [{"system": system, "part": "control", "figures": {"ndcg@10": interval(gap)}}
             for system, gap in (("small-2", 0.11), ("small-1", 0.18))],
    "comparisons": [], "auroc": [], "flagged": [], "depths": [], "joined": [], "slices": [],
}  # fmt: skip
MAP: dict[str, Any] = {
    "kinds": {"training": {"queries": 900, "shown": 2}, "candidate": {"queries": 1, "shown": 1},
              "selected": {"queries": 2, "shown": 2}},
    "explained": [0.25, 0.125],
    "points": [
        {"kind": "training", "query": "house", "x": 0.5, "y": -0.25},
        {"kind": "training", "query": "car", "x": -0.5, "y": 0.125},
        {"kind": "candidate", "query": "cat", "x": 0.0, "y": 0.5},
        {"kind": "selected", "query": f"dog {EVIL}", "x": 0.25, "y": 0.75},
        {"kind": "selected", "query": "x" * 300, "x": -0.25, "y": 0.625},
    ],
}  # fmt: skip
STEPS: dict[str, dict[str, Any]] = {
    "select": {"selected": 395, "control": 2307, "why_empty": "", "report": {
        "log": {"queries": 329}, "dropped": {"machine": 0, "judged": 116, "noise": 1}, "candidates": 78,
        "selected": {"queries": 41, "pairs": 395, "slices": {"": 20, EVIL: 375}},
        "control": {"queries": 48, "pairs": 2307, "drawn": 48, "kept": 2, "unusable": 0, "from": "search"},
        "selector": {"name": "herding", "params": {}},
    }},
    "judge": {"asked": 2702, "known": 0, "selected": 375, "control": 2257, "report": {
        "grades": [2520, 41, 71],
        "judges": [
            {"judge": "people", "verdict": "used", "why": EVIL, "graded": 2632, "unanswered": 70,
             "gold": {"quadratic": interval(0.7, 0.1)}},
            {"judge": "judgments", "verdict": "unscored", "why": "", "graded": 9, "unanswered": 0, "gold": None},
        ],
    }},
    "train": {"version": "2", "pairs": {"new": 300, "old": 12}},
    "export": {"version": "2"},
    "evaluate": {},
    "gate": GATE,
}  # fmt: skip


def write_recorded_cycle(folder: Path, *, until: str = "gate", ended: bool = True) -> Path:
    """The folder of a cycle that the gate has refused, or of one that has come to a step."""
    write(folder / "cycle.json", {
        "cycle": 3, "time": "2026-12-01T01:00:40+00:00", "because": [f"slice {EVIL}: share OOD 18 %", "AUC 0.845"],
        "from": {"name": "small", "version": "1", "sha256": "e" * 64},
    })  # fmt: skip
    for name, left in STEPS.items():
        record = left | {"settings": {}, "time": "2026-12-01T01:00:52+00:00", "seconds": 12.4}
        write(folder / f"steps/{name}.json", record)
        if name == "select":
            write(folder / "select/map.json", MAP)
        elif name == "train":
            write_run(folder / "train/run")
        elif name == "evaluate":
            write(folder / "evaluation/evaluation.json", EVALUATION)
        if name == until:
            break
    if ended:
        write(folder / "outcome.json", {
            "outcome": "refused", "time": "2026-12-01T01:01:40+00:00", "said": f"the gate refused it: {REASON}",
        })  # fmt: skip
    return folder


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
