"""The model card."""

from __future__ import annotations

from typing import Any

from darl_opensearch.bundle import TEXTS, Card

_TEXT = """---
license: apache-2.0
library_name: onnx
pipeline_tag: text-ranking
tags: [reranking, ordinal-regression, out-of-distribution, opensearch]
base_model: {base}
---

# {name} {version}

A reranker for OpenSearch that grades each query–item pair and flags pairs out of distribution.
Made by DaRL for OpenSearch, an independent implementation of the idea of arXiv:2412.12504.

| grade | name | gain |
|---|---|---|
{grades}
{chunks}
## Training

{train_queries} queries with {train_pairs} graded pairs; {dev_queries} dev queries stopped, kept or rolled back
the stages and calibrated the grades.{texts}

| stage | paired gain in RPS, 95 % interval | in nDCG | |
|---|---|---|---|
{stages}

## Dev set

Measured on the queries that stages were chosen on: use them to compare versions, not as an estimate.

| | {untrained} | this model |
|---|---|---|
{dev}

{graphs}{thresholds}## Out of distribution

Detector `{detector}` on {features} features, calibrated for a false-alarm rate of {alpha} on {pairs} pairs of
{queries} held-out queries that share neither query nor item with anything used to fit, choose or stop.
The guarantee is marginal: for pairs exchangeable with those.

| items | measured false alarms, 95 % interval by query |
|---|---|
{alarms}

{flagged}
"""

_CHUNKS = """
An item longer than {cap} tokens is scored in up to {chunks} chunks, and has the columns of its best-scoring one. Stages
are trained on the first; grades, thresholds, OOD scores and the figures below are calibrated and measured on all. A
model in the cluster (`--mode local`) scores only the first chunk, for which nothing here is calibrated.
"""

_THRESHOLDS = """## Thresholds

What `min_grade` and `min_score` keep of the {pairs} dev pairs, graded by a model that was calibrated on the other
queries, with 95 % intervals by query.

| `min_grade` | kept | of those this grade or better | of all such pairs kept |
|---|---|---|---|
{grades}

| `min_score` | kept | their mean score | their mean gain, over the highest |
|---|---|---|---|
{scores}

"""

_GRAPHS = """## Other graphs

What they change against `model.onnx`: nDCG on {queries} dev and training queries, the rest on the dev pairs.

| graph | nDCG, change ± standard error | largest change of a score | same OOD decision |
|---|---|---|---|
{rows}

"""

_FLAGGED = """### What a flag means for a grade

A detector fitted without them flags the dev queries, graded by a model that was calibrated on the others.

| queries | pairs | wrong grade, 95 % interval by query | RPS |
|---|---|---|---|
{rows}

{words}"""


def render_model_card(card: Card, result: dict[str, Any]) -> str:
    """Render ``README.md`` of a bundle."""
    data = card.training["data"]
    grades = "\n".join(
        f"| {g} | {n} | {v:g} |" for g, (n, v) in enumerate(zip(card.scale.names, card.scale.gains, strict=True))
    )
    stages = "\n".join(
        f"| {s['stage']} | {_gain(s.get('rps_gain'))} | {_gain(s['gain'])} | {'kept' if s['kept'] else 'rolled back'} |"
        for s in result["stages"]
    )
    dev = "\n".join(f"| {key} | {value} | {result['dev'][key]} |" for key, value in result["start"].items())
    bounds = (_bounds(result["ndcg_intervals"][which]) for which in ("start", "dev"))
    dev += f"\n| nDCG, 95 % interval over queries | {' | '.join(bounds)} |"
    alarms = "\n".join(
        f"| {kind} in training | {_share(share) if share else 'not measured'} |"
        for kind, share in (
            ("not seen", result["ood"]["false_alarms_unseen_items"]),
            ("seen", result["ood"]["false_alarms_seen_items"]),
        )
    )
    return _TEXT.format(
        chunks=_chunks(card), base=card.training["base"],
        name=card.name, version=card.version, grades=grades, stages=stages, dev=dev,
        texts=_held_texts(card), train_queries=data["train"]["queries"], train_pairs=data["train"]["pairs"],
        dev_queries=data["dev"]["queries"], detector=card.ood.detector, features=card.ood.features,
        untrained="base model's cosine" if card.backbone == "split" else "before training",
        alpha=card.ood.alpha, pairs=card.ood.calibration_pairs, queries=card.ood.calibration_queries, alarms=alarms,
        graphs=_graphs(card), thresholds=_thresholds(card, result.get("thresholds") or {}),
        flagged=_flagged(result["ood"].get("flagged") or {}),
    ).rstrip() + "\n"  # fmt: skip


def _held_texts(card: Card) -> str:
    """Say that the bundle holds training texts; nothing if it does not."""
    if "texts" not in card.training:
        return ""
    counts = card.training["texts"]
    return f" The texts of {counts['queries']} queries and {counts['items']} items are in `{TEXTS}`."


def _chunks(card: Card) -> str:
    """Say how long items are scored; nothing if they are cut."""
    if card.template.chunks == 1:
        return ""
    return _CHUNKS.format(chunks=card.template.chunks, cap=card.item_cap)


def _graphs(card: Card) -> str:
    """Say what the graphs beside ``model.onnx`` change; nothing if there are none."""
    measured = {name: graph for name, graph in card.graphs.items() if "ndcg_change" in graph}
    if not measured:
        return ""
    rows = [
        f"| `{name}`{': left out' if 'left_out' in graph else ''} | {graph['ndcg_change']['mean']:+.4f} ± "
        f"{graph['ndcg_change']['standard_error']:.4f} | {graph['score_difference']['max']:.4f} | "
        f"{graph['ood_agreement']:.4f} |"
        for name, graph in measured.items()
    ]
    queries = next(iter(measured.values()))["ndcg_change"]["queries"]
    return _GRAPHS.format(queries=queries, rows="\n".join(rows))


def _thresholds(card: Card, measured: dict[str, Any]) -> str:
    """Say how far thresholds can be relied on; nothing if it was not measured."""
    if not measured:
        return ""
    tables = {}
    for kind, names in (("min_grade", ("precision", "recall")), ("min_score", ("score", "gain"))):
        rows = []
        for row in measured[kind]:
            least = f"{row[kind]} ({card.scale.names[row[kind]]})" if kind == "min_grade" else f"{row[kind]:g}"
            cells = (_share(row[name]) if row[name]["mean"] is not None else "no pair" for name in names)
            rows.append(f"| {least} | {row['kept']} | {' | '.join(cells)} |")
        tables[kind] = "\n".join(rows)
    return _THRESHOLDS.format(pairs=measured["pairs"], grades=tables["min_grade"], scores=tables["min_score"])


def _flagged(measured: dict[str, Any]) -> str:
    """Say how wrong grades of flagged pairs are; nothing if it was not measured."""
    if not measured:
        return ""
    titles, rows, words = {"dev": "dev", "ood_dev": "OOD dev"}, [], []
    for role, part in measured.items():
        for kind, name, pairs in (
            ("flagged", "flagged", part["flagged"]), ("others", "other", part["pairs"] - part["flagged"])
        ):  # fmt: skip
            wrong, rps = (part[f"{figure}_{name}"] for figure in ("wrong", "rps"))
            cells = (_share(share) if share["mean"] is not None else "no pair" for share in (wrong, rps))
            rows.append(f"| {titles[role]}, {kind} | {pairs} | {' | '.join(cells)} |")
        ratio = part["wrong_ratio"]
        if ratio["mean"] is not None and ratio["low"] is not None:
            times = (
                f"{ratio['mean']:.1f} times as often as those of the others ({ratio['low']:.1f} to {ratio['high']:.1f})"
            )
            words.append(f"Grades of flagged pairs of the {titles[role]} queries are wrong {times}.")
    return _FLAGGED.format(rows="\n".join(rows), words=" ".join(words)).rstrip()


def _gain(values: dict[str, Any] | None) -> str:
    if values is None:  # a run of an earlier version
        return "not measured"
    if values["mean"] is None:
        return "no query to decide on"
    return f"{values['mean']:+.4f} {_bounds(values, '+.4f')}"


def _share(values: dict[str, Any]) -> str:
    return f"{values['mean']:.4f} {_bounds(values)}"


def _bounds(values: dict[str, Any], spec: str = ".4f") -> str:
    if values["mean"] is None:
        return "none"
    return "(one query)" if values["low"] is None else f"[{values['low']:{spec}}, {values['high']:{spec}}]"
