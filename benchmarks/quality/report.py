"""The results as Markdown, on the screen and between the markers of the README.

Run as ``python -m benchmarks.quality.report`` to render the README again; ``--check`` says whether it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages import Pages, Sections, difference, plain, signed, table

HERE = Path(__file__).parent
README = HERE / "README.md"
PAGES = (README, HERE / "training.md")
RESULT = HERE / "results" / "feedbackqa.json"
STUDY = HERE / "results" / "study.json"
CHUNKS = HERE / "results" / "chunks.json"


def render_result(result: dict[str, Any]) -> str:
    """The benchmark's tables.

    :param result: what ``feedbackqa`` wrote.
    :return: Markdown.
    """
    config, counts = result["config"], result["counts"]
    left_out = ", ".join(f"{name} {c['without_relevant']} of {c['queries']}" for name, c in counts.items())
    parts = [
        f"{config['splits']} half-splits, seed {config['seed']}. nDCG@{config['cutoff']} leaves out queries without "
        f"any relevant passage: {left_out}. Means over splits; ECE and RPS: lower is better."
    ]
    for name, means in result["means"].items():
        header = [name, "nDCG@3", "macro-F1", "kappa", "ECE", "RPS"]
        keys = ("ndcg@3", "macro_f1", "quadratic_kappa", "ece", "rps")
        parts.append(table(header, [[m, *(plain(values[key]) for key in keys)] for m, values in means.items()]))
    parts += _claim_tables(result["claims"])
    where, seconds = result["circumstances"], result["seconds"]
    parts.append(
        f"Took {sum(seconds.values()):.0f} s ({seconds['read_and_encode']:.0f} s of it encoding) on {where['cpu']}, "
        f"{where['threads']} threads; torch {where['versions']['torch']}."
    )
    return "\n\n".join(parts)


def _claim_tables(claims: dict[str, Any]) -> list[str]:
    tables = []
    for key, label in (("ndcg@3", "nDCG@3, higher is better"), ("rps", "RPS, lower is better")):
        rows = [
            [claim, difference(c), f"{c['p']:.4f}", f"{c['p_holm']:.4f}", str(c["n"])]
            for claim, c in claims[key].items()
        ]
        tables.append(table([f"Difference in {label}", "mean [95 %]", "p", "p (Holm)", "queries"], rows))
    return tables


def render_study(study: dict[str, Any]) -> str:
    """The study's tables.

    :param study: what ``study`` wrote.
    :return: Markdown.
    """
    default = study["default"]
    parts = []
    for title, rows in study["tables"].items():
        cells = [
            [name, plain(row["ndcg@3"]), "default" if name == default else difference(row["difference"]["ndcg@3"]),
             plain(row["rps"])]
            for name, row in rows.items()
        ]  # fmt: skip
        parts.append(table([title, "nDCG@3", "minus the default [95 %]", "RPS"], cells))
    parts.append(
        "Tuned: by the cross-validated nDCG@3 of each training half, then measured on that split's test half and on "
        "the OOD domain, as the default is."
    )
    parts += _claim_tables(study["nested"]["claims"])
    for family, choices in study["nested"]["chosen"].items():
        parts.append(f"Chosen for {family}: " + "; ".join(f"{name} ({n}×)" for name, n in choices.items()) + ".")
    return "\n\n".join(parts)


MEASURE_NAMES = {"ndcg": "nDCG", "macro_f1": "macro-F1", "quadratic_kappa": "kappa", "ece": "ECE", "rps": "RPS"}


def render_comparison(result: dict[str, Any]) -> str:
    """The tables of methods side by side.

    :param result: what ``losses`` or ``graded`` wrote.
    :return: Markdown.
    """
    config, against = result["config"], result["config"]["against"]
    parts = []
    for stage, ranks in result["mean_ranks"].items():
        what = "the head alone, on frozen features" if stage == "head" else "encoder and head"
        parts.append(
            f"### Stage {stage}: {what}\n\n{_count(config['splits'][stage])}, seed {config['seed']}. Mean rank "
            f"over all measures and parts (1 is best): "
            + ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.items()) + "."
        )  # fmt: skip
        for setting, found in result["settings"].items():
            for part, values in found["stages"][stage].items():
                parts.append(_comparison_table(f"{setting}, {part}", found["cutoff"], values, against))
    where = result["circumstances"]
    parts.append(
        f"In brackets: difference to {against} with its 95 % interval over queries; * p < .05 after Holm over the "
        f"methods of a column. ECE and RPS: lower is better. {where['cpu']}; torch {where['versions']['torch']}."
    )
    return "\n\n".join(parts)


def _count(splits: int) -> str:
    return "one half-split" if splits == 1 else f"{splits} half-splits"


def _comparison_table(title: str, cutoff: int, values: dict[str, Any], against: str) -> str:
    header = [title, *(f"nDCG@{cutoff}" if key == "ndcg" else name for key, name in MEASURE_NAMES.items())]
    rows = []
    for method, figures in values["figures"].items():
        cells = [method]
        for key in MEASURE_NAMES:
            cell = plain(figures[key]["mean"])
            if method != against:
                claim = values["differences"][method][key]
                cell += f" [{signed(claim['low'])}, {signed(claim['high'])}]{'*' if claim['p_holm'] < 0.05 else ''}"
            cells.append(cell)
        rows.append(cells)
    return table(header, rows)


def render_stages(result: dict[str, Any]) -> str:
    """The tables of one stage against several.

    :param result: what ``stages`` wrote.
    :return: Markdown.
    """
    config, heads = result["config"], result["heads"]
    parts = [
        f"Heads alone, nothing rolled back; {heads['draws']} draws of who trains, chooses and tests. Coefficients of "
        f"the interpolation: {', '.join(f'{c:g}' for c in sorted(heads['coefficients']))}.",
        *_change_tables(heads),
        f"Whole runs of the plan, which rolls back; {config['seeds']} seeds:",
    ]
    for part, found in result["figures"].items():
        header = [part, *(f"nDCG@{config['cutoff'][part]}" if k == "ndcg" else n for k, n in MEASURE_NAMES.items())]
        rows = [[name, *(_with_interval(values[key]) for key in MEASURE_NAMES)] for name, values in found.items()]
        parts.append(table(header, rows))
    parts += _change_tables(result)
    for name, runs in result["stages"].items():
        told = [", ".join(f"{s['stage']} {'kept' if s['kept'] else 'rolled back'}" for s in stages) for stages in runs]
        parts.append(f"{name}: " + "; ".join(f"seed {i}: {text}" for i, text in enumerate(told)) + ".")
    where = result["circumstances"]
    parts.append(f"{where['cpu']}; torch {where['versions']['torch']}.")
    return "\n\n".join(parts)


def _change_tables(result: dict[str, Any]) -> list[str]:
    rows = [[name, difference(c), f"{c['p']:.4f}", str(c["n"])] for name, c in result["changes"].items()]
    closed = [
        [name, "there is none" if c["mean"] is None or c["low"] is None else _with_interval(c),
         f"{c['resamples_without_a_gap']:.3f}"]
        for name, c in result["gap_closed"].items()
    ]  # fmt: skip
    return [
        table(["Change in nDCG", "mean [95 %]", "p", "queries"], rows),
        table(["Share of the OOD gap closed", "[95 %]", "resamples without a gap"], closed),
    ]


def _with_interval(values: dict[str, Any]) -> str:
    return f"{plain(values['mean'])} [{plain(values['low'])}, {plain(values['high'])}]"


def render_speed(result: dict[str, Any]) -> str:
    """The table of training speeds.

    :param result: what ``benchmarks.training.speed`` wrote.
    :return: Markdown.
    """
    config, rows = result["config"], []
    for setting, engines in result["found"].items():
        for engine, values in engines.items():
            speeds, times = sorted(values["pairs_per_second"]), sorted(values["times_sentence_transformers"])
            rows.append([f"{setting}: {engine}", f"{median(speeds):.1f} [{speeds[0]:.1f}, {speeds[-1]:.1f}]",
                         f"{median(times):.2f} [{times[0]:.2f}, {times[-1]:.2f}]"])  # fmt: skip
    where = result["circumstances"]
    return "\n\n".join([
        f"MiniLM, {config['pairs_a_step']} pairs a step, at most {config['length']} tokens a pair, the same texts; "
        f"median [least, most] of {config['rounds']} rounds in which each engine runs once, in a process of its own.",
        table(["", "pairs a second", "times sentence-transformers"], rows),
        f"{where['cpu']}, {where['threads']} threads; torch {where['versions']['torch']}, sentence-transformers "
        f"{where['versions']['sentence-transformers']}.",
    ])  # fmt: skip


def render_llm_speed(result: dict[str, Any]) -> str:
    """The table of LoRA training beside a plain loop around peft.

    :param result: what ``benchmarks.training.llm`` wrote.
    :return: Markdown.
    """
    config, rows = result["config"], []
    for setting, engines in result["found"].items():
        for engine, runs in engines.items():
            pairs = list(zip(runs, engines["plain peft loop"], strict=True))
            times = {key: sorted(one[key] / other[key] for one, other in pairs) for key in runs[0]}
            rows.append([
                f"{setting}: {engine}", f"{median(run['pairs_per_second'] for run in runs):.2f}",
                f"{median(run['peak_mib'] for run in runs):,.0f}",
                *(f"{median(values):.2f} [{values[0]:.2f}, {values[-1]:.2f}]" for values in times.values()),
            ])  # fmt: skip
    where = result["circumstances"]
    return "\n\n".join([
        f"{config['precision']}, {config['pairs_a_step']} pairs a step of {config['tokens_a_pair']:.0f} tokens on "
        f"average, {config['steps'] - config['warm_up_steps']} steps counted; median, and [least, most], of "
        f"{config['rounds']} rounds in which each engine runs once, in a process of its own with one thread.",
        table(["", "pairs per second of processor time", "peak MiB", "times the plain loop: pairs", "memory"], rows),
        f"{where['processor']}; torch {where['versions']['torch']}, peft {where['versions']['peft']}.",
    ])  # fmt: skip


def render_memory(result: dict[str, Any]) -> str:
    """The table of memory and time by size of the file.

    :param result: what ``benchmarks.training.memory`` wrote.
    :return: Markdown.
    """
    rows = [
        [f"{int(pairs):,} pairs, {store}", f"{row['mib']:.0f}", f"{row['mib'] - row['mib_before']:.0f}",
         f"{row['seconds_read']:.0f}", f"{row['seconds_epoch']:.0f}"]
        for pairs, found in result["pairs"].items() for store, row in found.items() if isinstance(row, dict)
    ]  # fmt: skip
    return table(["", "peak MiB", "of it for the data", "seconds to read", "seconds an epoch of batches"], rows)


LEARNER_SETS = {
    "epqa": "ePQA", "semeval_cqa_a": "SemEval A", "feedbackqa": "FeedbackQA", "esci": "ESCI",
}  # fmt: skip


def render_learner(result: dict[str, Any]) -> str:
    """The default learner, stage by stage, beside the untrained model.

    :param result: what ``learner`` wrote.
    :return: Markdown.
    """
    parts = []
    for name, variants in result["sets"].items():
        rows = []
        for variant, found in variants.items():
            splits = found["splits"].values()
            means = {key: sum(s[key] for s in splits) / len(splits) for key in ("ndcg", "rps", "kappa", "macro_f1")}
            changes = found.get("against", {}).get("untrained")
            rows.append([
                f"{variant} ({len(splits)})", plain(means["ndcg"]),
                difference(changes["ndcg"]) if changes else "", plain(means["rps"]),
                difference(changes["rps"]) if changes else "", plain(means["kappa"]), plain(means["macro_f1"]),
                f"{median(s['seconds'] for s in splits):.0f}" if all("seconds" in s for s in splits) else "",
            ])  # fmt: skip
        header = [f"{LEARNER_SETS[name]} (splits)", "nDCG@10", "change [95 %]", "RPS", "change [95 %]", "kappa",
                  "macro-F1", "seconds"]  # fmt: skip
        parts.append(table(header, rows))
        for variant, found in variants.items():
            if beside := found.get("against", {}).get("other program"):
                claims = (f"nDCG@10 {difference(beside['ndcg'])}", f"RPS {difference(beside['rps'])}")
                parts.append(f"{variant} − other program: {', '.join(claims)}.")
    where = result["circumstances"]
    parts.append(
        "Change: against the untrained model over the same queries, a query that several splits test being averaged "
        f"over them; RPS: lower is better. {where['processor']}; torch {where['versions']['torch']}."
    )
    return "\n\n".join(parts)


def render_chunks(result: dict[str, Any]) -> str:
    """The tables of items scored in chunks.

    :param result: what ``chunks`` wrote.
    :return: Markdown.
    """
    config, counts, parts = result["config"], result["counts"], []
    words, chunks = counts["words"], counts["chunks"]
    parts.append(
        f"{counts['queries']} queries with {counts['pairs']} pages, {counts['pages']} of them distinct: median "
        f"{words['p50']:.0f} words (5th to 95th percentile {words['p5']:.0f} to {words['p95']:.0f}) and "
        f"{chunks['p50']:.0f} chunks of at most {config['item_cap']} tokens. {config['folds']} folds, seed "
        f"{config['seed']}."
    )
    for title, found in result["figures"].items():
        kinds = [kind for kind in ("ndcg", "rps") if all(kind in row for row in found.values())]
        names = {"ndcg": f"nDCG@{config['cutoff']}", "rps": "RPS"}
        rows = [
            [name, *(cell for kind in kinds for cell in (
                plain(row[kind]["mean"]), difference(row[kind]["change"]) if "change" in row[kind] else ""
            ))]
            for name, row in found.items()
        ]  # fmt: skip
        parts.append(table([title, *(c for kind in kinds for c in (names[kind], "change [95 %]"))], rows))
        parts += [
            f"{name} − {name.replace('mean', 'max')}: "
            + ", ".join(f"{names[kind]} {difference(row[kind]['from_max'])}" for kind in kinds) + "."
            for name, row in found.items() if "from_max" in row["ndcg"]
        ]  # fmt: skip
    times, where = result["milliseconds"], result["circumstances"]
    parts.append(
        "Change: against the first chunk, over the same queries; RPS: lower is better. Milliseconds of processor "
        "time for an item, median [5th, 95th percentile]: " + ", ".join(
            f"{name} {value['p50']:.0f} [{value['p5']:.0f}, {value['p95']:.0f}]" for name, value in times.items()
        ) + f". {where['processor']}; torch {where['versions']['torch']}."
    )  # fmt: skip
    return "\n\n".join(parts)


SECTIONS: Sections = {
    "chunks": (CHUNKS, render_chunks),
    "learner": (HERE / "results" / "learner.json", render_learner),
    "result": (RESULT, render_result),
    "study": (STUDY, render_study),
    "losses": (HERE / "results" / "losses.json", render_comparison),
    "memory": (HERE / "results" / "memory.json", render_memory),
    "speed": (HERE / "results" / "speed.json", render_speed),
    "llm_speed": (HERE / "results" / "llm_speed.json", render_llm_speed),
    "stages": (HERE / "results" / "stages.json", render_stages),
    "graded": (HERE / "results" / "graded.json", render_comparison),
}
REPORT = Pages(PAGES, SECTIONS)
refresh, is_fresh = REPORT.refresh, REPORT.is_fresh


if __name__ == "__main__":
    sys.exit(REPORT.main(sys.argv[1:]))
