"""``darl export``: writing a finished run as a bundle."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle, Card, OodCard, TrainingTexts, writing
from darl_opensearch.check import compare, run_pairs
from darl_opensearch.errors import GateRefused, InputError
from darl_opensearch.scores import Columns, score_chunks
from trainer.export.card import render_model_card
from trainer.export.graph import ContractModule, export_graphs
from trainer.export.int8 import quantise, refit_calibration
from trainer.export.judged_pairs import JudgedPairs, compare_on, find_int8_obstacle, measure_change
from trainer.export.states import add_states
from trainer.run_folder import CHECKPOINT, Trained
from trainer.stages.ood_stage import two_fold_alarms
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData

PROBE_PAIRS = 48
REFERENCE_ROWS = 512
Report = Callable[[str], object]


def export_run(
    trained: Trained,
    base: Path,
    target: Path,
    *,
    int8: bool = True,
    checkpoint: bool = True,
    texts: bool = False,
    about: Mapping[str, Any] | None = None,
    report: Report = lambda what: None,
) -> Bundle:
    """Write a bundle.

    :param base: folder that data paths are relative to.
    :param checkpoint: include the checkpoint, from which the next cycle starts.
    :param texts: include the texts of training queries and judged items, for the monitor's page.
    :param about: further entries of the card's ``training``, JSON-ready.
    :raises GateRefused: if a graph differs from torch.
    :raises InputError: if the data differ from the run's.
    """
    config, model = trained.config, trained.model
    data = read_data(config, base, model.tokenizer())
    if data.summary() != trained.data:
        raise InputError(
            "the data differ from the run's training data", where=str(base),
            todo="name the folder of the run's darl.toml with --data, or train again",
        )  # fmt: skip
    calibration_texts, probe_texts = _texts(data)
    module = ContractModule(trained)
    graphs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="darl-export-") as scratch:
        work = Path(scratch)
        report("tracing the graph")
        export_graphs(module, work, work)
        model.tokenizer().save(str(work / files.TOKENIZER))
        report("comparing with torch")
        reference, features = run_torch(module, model.tokenizer(), probe_texts)
        columns = Columns(config.grades.scale.k)
        table = trained.ood.calibration.distances.numpy()
        rows = run_pairs(work / files.MODEL, model.tokenizer(), probe_texts)
        graphs[files.MODEL] = _verdict(files.MODEL, rows, reference, columns, table)
        difference = float(np.abs(run_pairs(work / files.FEATURES, model.tokenizer(), probe_texts) - features).max())
        if difference > 1e-4:
            raise GateRefused(
                f"{files.FEATURES} differs from torch by {difference:.1e}", todo="report this with the run"
            )
        graphs[files.FEATURES] = {"against_torch": difference}
        card = _card(trained, graphs, about or {})
        card = _add_graphs(trained, module, card, data, work, calibration_texts, int8=int8, report=report)
        training = _training_texts(data) if texts else None
        if training is not None:
            counts = {"queries": len(training.queries), "items": len(training.items)}
            card = dataclasses.replace(card, training={**card.training, "texts": counts})
        report("writing the bundle")
        with writing(target, card) as out:
            for file in (path for path in work.rglob("*") if path.is_file()):
                shutil.move(file, out / file.relative_to(work))
            np.save(out / files.CALIBRATION, table)
            features, queries = _reference(module, data)
            np.save(out / files.REFERENCE, features)
            (out / files.REFERENCE_QUERIES).write_text(json.dumps({"queries": queries}, ensure_ascii=False), "utf-8")
            if training is not None:
                (out / files.TEXTS).write_text(training.to_jsonl(), encoding="utf-8")
            probes = [
                {"query": q, "text": t, "scores": [float(v) for v in row]}
                for (q, t), row in zip(probe_texts, reference, strict=True)
            ]
            (out / files.PROBES).write_text(json.dumps(probes, ensure_ascii=False), encoding="utf-8")
            (out / files.README).write_text(render_model_card(card, trained.result), encoding="utf-8")
            if checkpoint:
                shutil.copytree(trained.folder / CHECKPOINT, out / files.CHECKPOINT)
                for name, value in (("config.json", config.to_json()), ("data.json", trained.data)):
                    text = json.dumps(value, indent=2, sort_keys=True)
                    (out / files.CHECKPOINT / name).write_text(text, encoding="utf-8")
    return Bundle.open(target)


def _add_graphs(
    trained: Trained, module: ContractModule, card: Card, data: RunData, work: Path,
    calibration: list[tuple[str, str]], *, int8: bool, report: Report,
) -> Card:  # fmt: skip
    """Write the graphs of item states and the quantised ones, where there can be any.

    :return: the card with what they change against ``model.onnx``.
    """
    takes_apart = trained.model.halves == 2 and not (work / files.MODEL_DATA).is_file()
    obstacle = _rule_out_int8(trained.model, work)
    compared: Sequence[JudgedPairs] = ()
    if takes_apart or (int8 and not obstacle):
        compared = compare_on(trained, data, work / files.MODEL)
    if takes_apart:
        report("taking the pair apart")
        card = add_states(module, card, work, compared, data, int8=int8)
    graphs = dict(card.graphs)
    if int8 and files.MEET_INT8 not in graphs:
        if obstacle:
            graphs[files.MODEL_INT8] = {"left_out": obstacle}
        else:
            report("quantising")
            graphs[files.MODEL_INT8] = _quantise_pairs(trained, data, work, calibration, compared)
    for name in (files.MODEL_INT8, files.MEET_INT8):
        if reason := graphs.get(name, {}).get("left_out"):
            report(f"no int8 graph: {reason}")
    return dataclasses.replace(card, graphs=graphs)


def _training_texts(data: RunData) -> TrainingTexts:
    """Collect the texts of training queries and of the items judged for them, each once."""
    queries, items = dict[str, None](), dict[str, str]()
    for judged in data.train:
        queries[judged.query] = None
        items |= {item_id: data.items[item_id].text for item_id in judged.item_ids if item_id not in items}
    return TrainingTexts(tuple(queries), tuple(items.items()))


def _rule_out_int8(model: Any, work: Path) -> str:
    """Return why there can be no int8 graph, or ``""``."""
    if not model.quantises:
        # Dettmers et al. 2022, arXiv:2208.07339: a few features of a decoder are far larger than all others.
        return "one activation scale a tensor does not hold a decoder's outlier features (arXiv:2208.07339)"
    if (work / files.MODEL_DATA).is_file():
        return "the model is too large for one file"
    return ""


def _texts(data: RunData) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """List the calibration pairs as text, and the probe pairs: awkward, calibration and judged ones."""
    calibration, judged = data.unjudged(data.traffic).texts, data.judged(data.dev).texts
    first = [(query, data.chunks(text)[0]) for query, text in calibration]
    awkward = [
        ('quotes " and \\ and {braces} ${parameters.x}', first[0][1]),
        ("éàü 中文 ß", "Ünïcödé 產品 | cover: naïve café"),
        ("x", "y"),
        ("a question far too long " * 40, first[0][1]),
        (calibration[0][0], "an item far too long " * 200),
    ]
    spread = [rows[:: max(1, len(rows) // 22)][:22] for rows in (first, judged)]
    return calibration, (awkward + spread[0] + spread[1])[:PROBE_PAIRS]


@torch.no_grad()
def run_torch(
    module: ContractModule, tokenizer: Any, pairs: list[tuple[str, str]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute torch's scores and features, one pair per pass."""
    scores, features = [], []
    for encoding in tokenizer.encode_batch(pairs):
        inputs = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        out = module(*(torch.tensor([values]) for values in inputs))
        scores.append(out["scores"][0].numpy())
        features.append(out["features"][0].numpy())
    return np.stack(scores).astype(np.float32), np.stack(features).astype(np.float32)


def _verdict(
    name: str, rows: NDArray[Any], reference: NDArray[Any], columns: Columns, table: NDArray[Any]
) -> dict[str, Any]:
    findings = list(compare(name, rows, reference, columns, table))
    if failed := [f for f in findings if not f.passed]:
        raise GateRefused("; ".join(f"{f.check}: {f.detail}" for f in failed), todo="report this with the run")
    return {f.check.removeprefix(f"{name}: "): f.detail for f in findings}


def _quantise_pairs(
    trained: Trained, data: RunData, work: Path, calibration: list[tuple[str, str]], compared: Sequence[JudgedPairs]
) -> dict[str, Any]:
    """Write the int8 graph, with its own calibration, unless it differs too much from fp32."""
    config, tokenizer = trained.config, trained.model.tokenizer()
    columns = Columns(config.grades.scale.k)
    graph = work / files.MODEL_INT8
    quantise(work / files.MODEL, graph)
    score = partial(run_pairs, graph, tokenizer)
    scaled = score_chunks(score, calibration, data.chunks)[:, columns.ood_distance]
    distances = refit_calibration(graph, scaled, trained.ood.calibration, config.ood.alpha)
    alarms = two_fold_alarms(distances, data.unjudged(data.traffic), config.ood.alpha)
    rows = [score_chunks(score, pairs.texts, data.chunks) for pairs in compared]
    change = measure_change(compared, rows)
    reason = find_int8_obstacle(change)
    if reason:
        graph.unlink()
    return compared[0].compare(rows[0], "int8") | {
        "ndcg_change": change,
        **({"left_out": reason} if reason else {}),
        "false_alarms_unseen_items": {"fp32": trained.ood.report["false_alarms_unseen_items"], "int8": alarms},
        "batch": "one pair a pass: dynamic int8 takes one activation scale a batch",
    }


def _reference(module: ContractModule, data: RunData) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
    """Sample the reference for drift tests: features of the pairs that held-out queries retrieve, and the queries.

    Unlike the calibration pairs, it includes items that were trained on, because live traffic retrieves both.
    """
    retrieved_by_query: dict[str, tuple[str, list[str]]] = {}
    for query, ids in [*data.traffic, *data.familiar]:
        retrieved_by_query.setdefault(query.query, (query.slice, []))[1].extend(ids)
    rng = np.random.default_rng(0)
    places = np.unique(
        np.linspace(0, len(retrieved_by_query) - 1, min(len(retrieved_by_query), REFERENCE_ROWS)).astype(int)
    )
    names = [list(retrieved_by_query)[place] for place in places.tolist()]
    rows_per_query = max(1, REFERENCE_ROWS // len(names))
    queries, pairs = [], list[tuple[int, str]]()
    for row, name in enumerate(names):
        slice_name, item_ids = retrieved_by_query[name]
        retrieved = list(dict.fromkeys(item_ids))
        sampled = [retrieved[i] for i in rng.permutation(len(retrieved))[:rows_per_query].tolist()]
        queries.append({"rows": len(sampled), "candidates": len(retrieved), "slice": slice_name})
        pairs += [(row, item_id) for item_id in sampled]
    items = {item_id: row for row, item_id in enumerate(dict.fromkeys(item_id for _, item_id in pairs))}
    index = torch.tensor([(row, items[item_id]) for row, item_id in pairs])
    texts = [data.items[item_id].text for item_id in items]
    features = module.backbone.feature_table(names, texts, index).expand()
    return torch.cat(features.halves, dim=1).numpy().astype(np.float32), queries


def _card(trained: Trained, graphs: dict[str, Any], about: Mapping[str, Any]) -> Card:
    config, ood = trained.config, trained.result["ood"]
    return Card(
        name=config.model.name,
        version=config.model.version,
        scale=config.grades.scale,
        template=config.template.item_template,
        query_cap=config.model.query_cap,
        item_cap=config.model.item_cap,
        ood=OodCard(
            ood["detector"], ood["features"], ood["alpha"], ood["calibration_pairs"], ood["calibration_queries"]
        ),
        backbone=config.model.backbone,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        training={
            "base": config.model.base, "seed": config.seed, "data": trained.data,
            "stages": [
                {k: s[k] for k in ("stage", "kept", "rps_gain", "gain") if k in s} for s in trained.result["stages"]
            ],
            **about,
        },
        metrics={
            "dev_start": trained.result["start"], "dev": trained.result["dev"],
            "ndcg_intervals": trained.result["ndcg_intervals"], "ood": ood,
        },
        graphs=graphs,
        frame=trained.model.tokenizer().num_special_tokens_to_add(True),
    )  # fmt: skip
