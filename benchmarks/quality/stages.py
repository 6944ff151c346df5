"""One stage on pooled data, or stages? The same samples, on a shift that has a gap: ESCI, then FeedbackQA.

First with heads alone and nothing rolled back, on many draws: there the gap shows. Then as whole runs of the product
(``darl train``'s own plan, which rolls back what does not earn its place) on files written for them. Run as
``python -m benchmarks.quality.stages``; ``DARL_DATA`` names the folder of real judgments. A run that was broken
off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import data_folder
from benchmarks.quality import compare, report, sets
from benchmarks.quality.data import GAINS, Judged, Rows, encode
from benchmarks.quality.feedbackqa import circumstances
from benchmarks.quality.measures import over_splits
from benchmarks.quality.methods import Method, fitted
from darl_opensearch.errors import DarlError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.bootstrap import Figure, mean_over_queries, ratio, resample
from darl_opensearch.stats.paired import compare_paired
from darl_opensearch.stats.ranking import ndcg_per_query
from darl_opensearch.text import ItemRenderer, ItemTemplate
from trainer.config import Config, Loss, parse_config
from trainer.evaluate.grading import Grading
from trainer.run_folder import Trained
from trainer.stages import plan
from trainer.stages.objective import predict
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

CAPS = {"query_cap": 24, "item_cap": 64}  # four whole runs a seed have to end the same day on two cores
ITEMS = 12  # of an ESCI query
NEW, NEW_DEV, REST, OOD_TEST, TRAFFIC = 51, 17, 202, 300, 30
CUTOFF = {"ID": 10, "OOD": 3}
DRAWS, HEAD_DRAWS = 10_000, 20
ALONE, POOLED, STAGED, REFERENCE = "ESCI alone", "pooled, one stage", "staged", "saw every OOD label"
Queries = list[tuple[str, str, list[tuple[str, int]]]]  # id, text, items with grades
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """Queries of one seed, by what they are for.

    :param items: text of each item.
    :param parts: ``train``, ``dev``, ``ID``, ``new``, ``new_dev``, ``rest`` (of the OOD labels) and ``OOD``.
    """

    items: dict[str, str]
    parts: dict[str, Queries]


def material(folder: Path, *, seed: int) -> Material:
    """Draw who trains, who chooses and who tests.

    :param folder: what ``DARL_DATA`` names.
    :param seed: of the draw.
    :return: the queries.
    """
    items: dict[str, str] = {}
    parts: dict[str, Queries] = {}
    for name in ("esci", "feedbackqa"):
        texts = sets.read_texts(folder, name, seed=0)
        items |= texts.passages
        rows = [(f"{name}-{i}", q, judged[:ITEMS]) for i, (q, judged) in enumerate(zip(texts.queries, texts.judged,
                                                                                      strict=True))]  # fmt: skip
        rows = leave_out_repeats(rows)
        order = [rows[i] for i in np.random.default_rng([seed, len(name)]).permutation(len(rows))]
        if name == "esci":
            n_test, n_dev = round(len(order) * 0.3), round(len(order) * 0.15)
            sizes = {"ID": n_test, "dev": n_dev, "train": len(order) - n_test - n_dev}
        else:
            sizes = {"OOD": OOD_TEST, "new": NEW, "new_dev": NEW_DEV, "rest": REST}
        for part, size in sizes.items():
            parts[part], order = order[:size], order[size:]
    return Material(items, parts)


def leave_out_repeats(rows: Queries) -> Queries:
    """Leave out a query whose very words another one has."""
    found: dict[str, tuple[str, str, list[tuple[str, int]]]] = {}
    for row in rows:
        found.setdefault(" ".join(row[1].lower().split()), row)
    return list(found.values())


def methods(found: Material) -> dict[str, tuple[Mapping[str, Queries], dict[str, Any]]]:
    """What is compared: files and tables of each run.

    :param found: the queries.
    :return: by name, judged files and configuration tables.
    """
    p = found.parts
    one = {"run": ["head", "full"]}
    pooled = {"judgments": p["train"] + p["new"], "dev": p["dev"] + p["new_dev"]}
    return {
        ALONE: ({"judgments": p["train"], "dev": p["dev"]}, {"stages": one}),
        POOLED: (pooled, {"stages": one}),
        STAGED: (
            {"judgments": p["train"], "dev": p["dev"], "new": p["new"], "ood_dev": p["new_dev"]},
            {"stages": {"run": ["head", "full", "augmented", "interpolate"]}},
        ),
        REFERENCE: ({**pooled, "judgments": pooled["judgments"] + p["rest"]}, {"stages": one}),
    }


def write_project(
    folder: Path, found: Material, files: Mapping[str, Queries], tables: Mapping[str, Any], seed: int
) -> Config:
    """Write a run's files.

    :param folder: where to.
    :param found: items and queries.
    :param files: judged queries of each key of ``[data]``.
    :param tables: further tables.
    :param seed: of the run.
    :return: its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used = {item_id for rows in found.parts.values() for _, _, judged in rows for item_id, _ in judged}
    spare = [item_id for item_id in found.items if item_id not in used][: TRAFFIC * 5]
    rows = [{"id": item_id, "text": found.items[item_id]} for item_id in [*sorted(used), *spare]]
    _write(folder / "items.jsonl", rows)
    for key, queries in files.items():
        _write(folder / f"{key}.jsonl", [
            {"query_id": query_id, "query": query, "item_id": item_id, "grade": grade}
            for query_id, query, judged in queries for item_id, grade in judged
        ])  # fmt: skip
    # The OOD calibration that every run ends with; nothing of it is read here.
    _write(folder / "traffic.jsonl", [
        {"query": f"traffic {i}", "items": spare[i * 5 : (i + 1) * 5]} for i in range(TRAFFIC)
    ])  # fmt: skip
    data = {"items": "items.jsonl", "traffic": "traffic.jsonl", **{key: f"{key}.jsonl" for key in files}}
    return parse_config(
        {
            "model": {"name": "stages", **CAPS}, "data": {**data, "allow_near": True}, "seed": seed,
            "grades": {"names": ["0", "1", "2", "3"], "gains": list(GAINS)}, "template": {"fields": ["=text"]},
            **tables, "stages": {"full_epochs": 1, "evaluations": 1, **tables["stages"]},
        },
        where=str(folder),
    )  # fmt: skip


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Said:
    """What one run's model says of one test part.

    :param ndcg: of each query, by its id.
    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]``.
    :param query_ids: ``n`` ids.
    """

    ndcg: dict[str, float]
    grade_probs: Floats
    grades: NDArray[np.int64]
    query_ids: list[str]


def test(trained: Trained, found: Material, part: str) -> Said:
    """Try a model on one part.

    :param trained: the run.
    :param found: the queries.
    :param part: ``ID`` or ``OOD``.
    :return: what it says.
    """
    renderer = ItemRenderer(ItemTemplate(("=text",)), trained.model.tokenizer(), CAPS["item_cap"])
    rows = found.parts[part]
    ids = {item_id for _, _, judged in rows for item_id, _ in judged}
    items = {i: Item(i, renderer({"text": found.items[i]}), "") for i in ids}
    queries = [
        JudgedQuery(query_id, text, tuple(i for i, _ in judged), tuple(g for _, g in judged))
        for query_id, text, judged in rows
    ]
    pairs: Pairs = RunData(items, [], [], []).judged(queries)
    said = predict(trained.model.head, Features(trained.model).of(pairs).head_input)
    grades, gain, index = pairs.numpy(GAINS)
    ndcg = ndcg_per_query(said.latent, gain, index, cutoff=CUTOFF[part])
    names = [row[0] for row in rows]
    return Said({names[q]: v for q, v in ndcg.items()}, said.grade_probs, grades, [names[q] for q in index])


def run(folder: Path, work: Path, *, seeds: Sequence[int], say: Callable[[str], object]) -> dict[str, Any]:
    """Run everything.

    :param folder: what ``DARL_DATA`` names.
    :param work: where the runs are kept.
    :param seeds: one a repetition.
    :param say: called with what was just done.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    told: dict[str, dict[str, list[Said]]] = {}
    stages: dict[str, list[Any]] = {}
    for seed in seeds:
        found = material(folder, seed=seed)
        for name, (files, tables) in methods(found).items():
            place = work / f"{seed}" / name.replace(" ", "-").replace(",", "")
            config = write_project(place, found, files, tables, seed)
            trained = plan.train(config, place, place / "run")
            for part in CUTOFF:
                told.setdefault(name, {}).setdefault(part, []).append(test(trained, found, part))
            stages.setdefault(name, []).append([
                {key: stage.get(key) for key in ("stage", "kept", "rps_gain", "gain", "coefficient")}
                for stage in trained.result["stages"]
            ])  # fmt: skip
            say(f"seed {seed}, {name}: after {time.perf_counter() - begin:.0f} s")
    return {
        **summarise(told), "stages": stages,
        "config": {"seeds": len(seeds), "caps": CAPS, "items": ITEMS, "new": NEW, "new_dev": NEW_DEV, "rest": REST,
                   "ood_test": OOD_TEST, "draws": DRAWS, "cutoff": CUTOFF,
                   "data": sets.digests(folder, ("esci", "feedbackqa"))},
        "circumstances": circumstances(), "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip


def head_level(folder: Path, *, draws: int) -> dict[str, Any]:
    """Fit heads on frozen features, none of them rolled back.

    *Staged* starts from the ESCI head, fits one on the new queries with as many ESCI queries replayed, and walks from
    the first to the second: a mixture of two heads' latents is the latent of their mixed weights. The coefficient is
    the best on the OOD dev queries of those at which nDCG of the ESCI dev queries falls by at most .005.

    :param folder: what ``DARL_DATA`` names.
    :param draws: repetitions of the draw of who trains, chooses and tests.
    :return: JSON-ready result.
    """
    texts = [sets.read_texts(folder, name, seed=0) for name in ("esci", "feedbackqa")]
    shops = tuple(sorted(set(texts[0].domain)))
    judged = encode(sets.join(texts), shops, sets.untrained(compare.BASE))
    inside = judged.queries(*shops)
    outside = np.setdiff1d(np.arange(len(judged.domain)), inside)
    method, n = Method("default", Loss()), len(judged.domain)
    values: dict[str, dict[str, list[dict[int, float]]]] = {}
    chosen = []
    for number in range(draws):
        rng = np.random.default_rng([1, number])
        a, b = rng.permutation(inside), rng.permutation(outside)
        n_test, n_dev = round(len(a) * 0.3), round(len(a) * 0.15)
        test, dev, train = a[:n_test], a[n_test : n_test + n_dev], a[n_test + n_dev :]
        ood, new, new_dev, rest = np.split(b, np.cumsum([OOD_TEST, NEW, NEW_DEV]))

        def latent(train: Rows, dev: Rows) -> Floats:
            head = fitted(method, *((judged.part(q), judged.head_input[judged.rows(q)]) for q in (train, dev)))
            return predict(head, judged.head_input).latent

        both_dev = np.concatenate([dev, new_dev])
        alone = latent(train, dev)
        augmented = latent(np.concatenate([new, rng.permutation(train)[: len(new)]]), both_dev)
        mixed = {c: (1 - c) * alone + c * augmented for c in np.linspace(0, 1, 11)}
        curve = {c: (_mean(judged, v, dev, 10), _mean(judged, v, new_dev, 3)) for c, v in mixed.items()}
        allowed = [c for c in mixed if curve[c][0] >= curve[0.0][0] - 0.005]
        best = max(allowed, key=lambda c: (curve[c][1], -c))
        chosen.append(float(best))
        rows = {
            "cosine": judged.head_input[:, 0].double().numpy(), ALONE: alone, STAGED: mixed[best],
            POOLED: latent(np.concatenate([train, new]), both_dev),
            REFERENCE: latent(np.concatenate([train, new, rest[:REST]]), both_dev),
        }  # fmt: skip
        for name, told in rows.items():
            for part, queries in (("ID", test), ("OOD", ood)):
                found = _per_query(judged, told, queries, CUTOFF[part])
                values.setdefault(part, {}).setdefault(name, []).append(found)
    per_query = {p: {m: over_splits(v, n) for m, v in found.items()} for p, found in values.items()}
    return {"draws": draws, "coefficients": chosen, **changes(per_query)}


def _per_query(judged: Judged, latent: Floats, queries: Rows, cutoff: int) -> dict[int, float]:
    rows = judged.rows(queries)
    _, gain, index = judged.part(queries).numpy(GAINS)
    return ndcg_per_query(latent[rows.numpy()], gain, index, cutoff=cutoff)


def _mean(judged: Judged, latent: Floats, queries: Rows, cutoff: int) -> float:
    return float(np.mean(list(_per_query(judged, latent, queries, cutoff).values())))


def summarise(told: Mapping[str, Mapping[str, Sequence[Said]]]) -> dict[str, Any]:
    """Figures, changes and gaps with intervals over queries.

    :param told: by method and part, what each seed's model said.
    :return: JSON-ready values.
    """
    figures: dict[str, Any] = {}
    per_query: dict[str, dict[str, Floats]] = {}
    for part in CUTOFF:
        ids = sorted({q for by_part in told.values() for said in by_part[part] for q in said.query_ids})
        place = {q: i for i, q in enumerate(ids)}
        flat: dict[str, Figure] = {}
        per_query[part] = {}
        for name, by_part in told.items():
            ndcg = over_splits([{place[q]: v for q, v in s.ndcg.items()} for s in by_part[part]], len(ids))
            index = np.array([place[q] for said in by_part[part] for q in said.query_ids])
            probs = np.concatenate([said.grade_probs for said in by_part[part]])
            grades = np.concatenate([said.grades for said in by_part[part]])
            per_query[part][name] = ndcg
            graded = Grading(probs, grades, index, len(ids)).figures()
            flat |= {f"{name}\nndcg": mean_over_queries(ndcg)} | {f"{name}\n{k}": v for k, v in graded.items()}
        for key, value in resample(flat, draws=2000, seed=0).items():
            name, _, measure = key.partition("\n")
            figures.setdefault(part, {}).setdefault(name, {})[measure] = value.interval().to_json()
    return {"figures": figures, **changes(per_query)}


def changes(per_query: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    """Changes of nDCG, and how much of the gap on OOD queries is closed.

    :param per_query: nDCG by part, method and query; nan where a query was not tested.
    :return: JSON-ready values.
    """
    ood = per_query["OOD"]
    gap = {name: ood[REFERENCE] - ood[name] for name in (ALONE, POOLED, STAGED)}
    claims = {
        f"{part}: {one} - {other}": compare_paired(per_query[part][one], per_query[part][other], draws=DRAWS)
        for part in CUTOFF
        for one, other in ((POOLED, ALONE), (STAGED, ALONE), (STAGED, POOLED), (REFERENCE, ALONE))
    }
    if "cosine" in ood:
        claims |= {
            f"{p}: {ALONE} - cosine": compare_paired(per_query[p][ALONE], per_query[p]["cosine"]) for p in CUTOFF
        }
    return {
        "changes": {name: {**c.interval.to_json(), "p": round(c.p, 5)} for name, c in claims.items()},
        "gap_closed": {name: measure_share_closed(gap[ALONE], gap[name]) for name in (POOLED, STAGED)},
    }


def measure_share_closed(whole: Floats, left: Floats) -> dict[str, Any]:
    """``1 - left / whole`` over the same queries, resampled together."""
    there = ~np.isnan(whole) & ~np.isnan(left)
    sums = np.stack([(whole - left)[there], whole[there]], axis=1)
    figure = Figure(sums, ratio, np.ones(len(sums), dtype=bool))
    closed = resample({"share": figure}, draws=DRAWS, seed=0)["share"]
    no_gap = float(np.isnan(closed.draws).mean())
    return {**closed.interval().to_json(), "resamples_without_a_gap": round(no_gap, 4)}


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.stages", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--work", type=Path, default=Path("runs") / "stages", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=here / "results" / "stages.json", help="JSON to write")
    parser.add_argument("--only", type=int, help="train for this seed, keep its runs in --work, and write no result")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    try:
        seeds = range(args.seeds) if args.only is None else [args.only]
        result = run(data_folder(), args.work, seeds=seeds, say=lambda text: print(text, file=sys.stderr))
        if args.only is not None:
            return 0
        result["heads"] = head_level(data_folder(), draws=HEAD_DRAWS)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report.render_stages(result))
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
