"""Does scoring long items in chunks order and grade them better than their first chunk alone?

Items are web pages of 500 to 2,000 words, put together again from FeedbackQA's passages. Run as
``python -m benchmarks.quality.chunks``; ``DARL_DATA`` names the folder of real judgments.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measuring import data_folder, describe_machine, spread, write_result
from benchmarks.quality import report, sets
from benchmarks.quality.data import FOLDER, GAINS, ID_DOMAINS, OOD_DOMAIN
from darl_opensearch.errors import DarlError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.stats.paired import compare_paired
from darl_opensearch.text import ItemRenderer, ItemTemplate
from trainer.config import Loss, Model, Stages
from trainer.models.heads import Head
from trainer.models.sources import load_encoder
from trainer.models.split import SplitReranker
from trainer.stages.calibrated import calibrate_afresh, measure_by_query, use_one_thread
from trainer.stages.head_stage import fit_head
from trainer.stages.objective import Objective, predict
from trainer.stages.robust import HeadData
from trainer.training_data.pairs import Pairs

Floats = NDArray[np.float64]
CUTOFF, FOLDS, MOST, FILLERS, TIMED = 10, 5, 16, 7, 30
STAGES = Stages()
WORDS = (500, 2000)
SETTINGS = Model(name="chunks")  # base model and caps of the product
FIRST = "first chunk"


@dataclasses.dataclass(frozen=True)
class Page:
    """Consecutive passages of one web page.

    :param key: domain and title.
    :param passages: their ids.
    :param item: what the template renders.
    """

    key: tuple[str, str]
    passages: tuple[str, ...]
    item: dict[str, str]


@dataclasses.dataclass(frozen=True)
class World:
    """Queries with pages.

    :param pages: distinct pages.
    :param judged: for each query its pages, as places in ``pages``, with their grades.
    """

    queries: list[str]
    pages: list[Page]
    judged: list[list[tuple[int, int]]]


def read_world(folder: Path, *, queries: int, seed: int) -> World:
    """Put pages together, and judge them by their judged passages.

    A page holds the judged passage and its neighbours on the web page, as many as there are up to a length drawn
    between the bounds; pages that stay below are left out. Its grade is the best of the query's judged passages on it.
    Further pages, of other web pages of the same domain, are drawn at random from those of other queries and count as
    not relevant.

    :param folder: what ``DARL_DATA`` names.
    :param queries: maximum queries.
    """
    rows: dict[str, dict[str, Any]] = {}
    sections: dict[tuple[str, str], list[str]] = {}
    for _, row in read_jsonl(folder / FOLDER / "passages.jsonl.gz"):
        if row["domain"] in (*ID_DOMAINS, OOD_DOMAIN):
            rows[row["doc_id"]] = row
            sections.setdefault((row["domain"], row["page"]), []).append(row["doc_id"])
    judged: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(folder / FOLDER / "judgments.jsonl.gz"):
        judged.setdefault(row["query_id"], []).append(row)
    names = sorted(judged)
    random.Random(seed).shuffle(names)
    pages: dict[tuple[str, ...], Page] = {}
    found: list[tuple[str, dict[tuple[str, ...], int]]] = []
    for name in names:
        grades: dict[tuple[str, ...], int] = {}
        for row in judged[name]:
            if (page := _page(rows, sections, row["doc_id"], seed=seed)) is not None:
                pages.setdefault(page.passages, page)
                on_it = (r["grade"] for r in judged[name] if r["doc_id"] in page.passages)
                grades[page.passages] = max(int(grade) for grade in on_it)
        if grades and any(grades.values()):
            found.append((judged[name][0]["query"], grades))
        if len(found) == queries:
            break
    used = {key for _, grades in found for key in grades}
    places = {key: place for place, key in enumerate(key for key in pages if key in used)}
    lists = []
    for number, (_, grades) in enumerate(found):
        rng, own = random.Random(f"{seed}/{number}"), {pages[key].key for key in grades}
        domain = next(iter(own))[0]
        others = [key for key in places if pages[key].key not in own and pages[key].key[0] == domain]
        fillers = rng.sample(others, min(FILLERS, len(others)))
        pairs = [(places[key], grade) for key, grade in (grades | dict.fromkeys(fillers, 0)).items()]
        rng.shuffle(pairs)
        lists.append(pairs)
    return World([query for query, _ in found], [pages[key] for key in places], lists)


def _page(
    rows: dict[str, dict[str, Any]], sections: dict[tuple[str, str], list[str]], doc_id: str, *, seed: int
) -> Page | None:
    """Gather passages around a judged one, alternately before and after it."""
    key = (rows[doc_id]["domain"], rows[doc_id]["page"])
    order = sections[key]
    texts = {i: f"{rows[i]['title']}: {rows[i]['text']}" for i in order}
    rng = random.Random(f"{seed}/{doc_id}")
    low = high = order.index(doc_id)
    wanted, words = rng.randint(*WORDS), len(texts[doc_id].split())
    while True:
        ends = [place for place in (low - 1, high + 1) if 0 <= place < len(order)]
        fitting = [place for place in ends if words + len(texts[order[place]].split()) <= wanted]
        if not fitting:
            break
        place = rng.choice(fitting)
        low, high, words = min(low, place), max(high, place), words + len(texts[order[place]].split())
    if not WORDS[0] <= words <= WORDS[1]:
        return None
    passages = tuple(order[low : high + 1])
    return Page(key, passages, {"title": key[1], "text": " ".join(texts[i] for i in passages)})


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The judged pairs with the features of each chunk.

    :param pairs: of pages, by their first chunk.
    :param head_input: ``[m, f]`` of each pair's chunks, in order.
    :param pair: ``[m]`` int64, to which pair each belongs.
    :param number: ``[m]`` int64, of the chunk, from 0.
    """

    pairs: Pairs
    head_input: Tensor
    pair: NDArray[np.int64]
    number: NDArray[np.int64]


def encode(world: World, renderer: ItemRenderer, model: SplitReranker) -> tuple[Encoded, dict[str, Any]]:
    """Encode every chunk once; also time a page's first chunk and all its chunks."""
    chunks = [renderer.chunks(renderer(page.item)) for page in world.pages]
    model.fit_texts(parts[0] for parts in chunks)  # as training does
    texts = [text for parts in chunks for text in parts]
    starts = np.cumsum([0, *(len(parts) for parts in chunks)])
    index = [(query, page) for query, pairs in enumerate(world.judged) for page, _ in pairs]
    grades = [grade for pairs in world.judged for _, grade in pairs]
    rows = [(row, query, chunk) for row, (query, page) in enumerate(index) for chunk in range(len(chunks[page]))]
    table = torch.tensor([(query, int(starts[index[row][1]]) + chunk) for row, query, chunk in rows])
    head_input = model.feature_table(world.queries, texts, table).head_input
    pairs = Pairs(
        tuple(world.queries), tuple(parts[0] for parts in chunks), torch.tensor(index), torch.tensor(grades)
    )  # fmt: skip
    pair, number = (np.array([row[place] for row in rows], np.int64) for place in (0, 2))
    return Encoded(pairs, head_input, pair, number), time_pages(chunks, renderer, world.pages, model)


def time_pages(
    chunks: Sequence[Sequence[str]], renderer: ItemRenderer, pages: Sequence[Page], model: SplitReranker
) -> dict[str, Any]:
    """Measure the processor time of cutting and encoding some pages, each by its first chunk and by all, in turns."""
    found: dict[str, list[float]] = {"cut": [], FIRST: [], "all chunks": []}
    for place in range(0, len(pages), max(1, len(pages) // TIMED)):
        text = renderer.template.render(pages[place].item)
        fresh = ItemRenderer(renderer.template, model.tokenizer(), renderer.item_cap)
        for name, work in (
            ("cut", lambda fresh=fresh, text=text: fresh.chunks(text)),
            (FIRST, lambda place=place: model.pool_texts(chunks[place][:1], "item")),
            ("all chunks", lambda place=place: model.pool_texts(chunks[place], "item")),
        ):
            begin = time.thread_time()
            work()
            found[name].append(1000 * (time.thread_time() - begin))
    return {name: spread(values) for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How chunks become an item's score.

    :param chunks: maximum chunks.
    :param join: ``max`` or ``mean``.
    """

    chunks: int
    join: str = "max"


VARIANTS = {
    FIRST: Variant(1),
    **{f"max of {n}": Variant(n) for n in (2, 4, 8, MOST)},
    **{f"mean of {n}": Variant(n, "mean") for n in (2, 4, MOST)},
}


def grade(variant: Variant, head: Head, encoded: Encoded, dev: Tensor) -> tuple[Floats, Floats]:
    """Grade all pairs by a head whose grades are calibrated on the dev pairs as the variant scores them.

    :param dev: ``[n]`` bool, of the pairs.
    :return: ``[n, k]`` grade probabilities and ``[n]`` scores.
    """
    head, within = copy.deepcopy(head), encoded.number < variant.chunks
    pair, head_input = encoded.pair[within], encoded.head_input[torch.from_numpy(within)]
    pairs = encoded.pairs
    if variant.join == "max":
        best = best_rows(predict(head, head_input).latent, pair)
        calibrate_afresh(head, pairs.select(dev), head_input[best][dev])
        found = predict(head, head_input[best_rows(predict(head, head_input).latent, pair)])
        return found.grade_probs, found.latent
    owner = torch.from_numpy(pair)
    calibrate_afresh(head, pairs.select(owner[dev[owner]]), head_input[dev[owner]])
    probs, counts = predict(head, head_input).grade_probs, np.bincount(pair)
    sums = np.stack([np.bincount(pair, weights=column) for column in probs.T], axis=1)
    mean = sums / counts[:, None]
    return mean, mean @ np.array(GAINS)


def best_rows(score: Floats, pair: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the best row of each pair, ties to the first; ``[n]``."""
    order = np.lexsort((np.arange(len(score)), -score, pair))
    _, first = np.unique(pair[order], return_index=True)
    return order[first]


@use_one_thread()
def compare(encoded: Encoded, model: SplitReranker) -> dict[str, Any]:
    """Train a head on first chunks and grade the other queries, fold by fold, by each variant."""
    objective, pairs = Objective.make(Loss(), GAINS), encoded.pairs
    fold = pairs.query_index % FOLDS
    first = encoded.head_input[torch.from_numpy(encoded.number == 0)]
    probs = {name: np.zeros((len(pairs.grades), len(GAINS))) for name in VARIANTS}
    scores = {name: np.zeros(len(pairs.grades)) for name in VARIANTS}
    for number in range(FOLDS):
        test, dev = fold == number, fold == (number + 1) % FOLDS
        train = ~(test | dev)
        head = copy.deepcopy(model.head)
        parts = [HeadData(pairs.select(part), first[part]) for part in (train, dev)]
        fit_head(head, parts[0], dev=parts[1], objective=objective, steps=STAGES.head_steps, patience=STAGES.patience)
        for name, variant in VARIANTS.items():
            all_probs, all_scores = grade(variant, head, encoded, dev)
            probs[name][test], scores[name][test] = all_probs[test], all_scores[test]
    found = measure(pairs, probs, scores)
    return {"trained": found, "untrained": measure(pairs, None, cosine_scores(encoded, model.head))}


def cosine_scores(encoded: Encoded, head: Head) -> dict[str, Floats]:
    """Score all pairs by the untrained model, whose score is in the order of the cosine; ``[n]`` by variant."""
    latent, found = predict(head, encoded.head_input).latent, {}
    for name, variant in VARIANTS.items():
        within = encoded.number < variant.chunks
        pair, score = encoded.pair[within], latent[within]
        mean = np.bincount(pair, weights=score) / np.bincount(pair)
        found[name] = score[best_rows(score, pair)] if variant.join == "max" else mean
    return found


def measure(pairs: Pairs, probs: dict[str, Floats] | None, scores: dict[str, Floats]) -> dict[str, Any]:
    """Measure each variant, with its change from the first chunk, and from the best chunk to the mean.

    :param probs: ``[n, k]`` by variant; None: only the order is measured.
    """
    grades, gain, query_index = pairs.numpy(GAINS)
    uniform = np.full((len(grades), len(GAINS)), 1 / len(GAINS))
    figures = {
        name: measure_by_query(
            uniform if probs is None else probs[name], score, grades, gain, query_index, cutoff=CUTOFF
        )
        for name, score in scores.items()
    }

    def values(name: str, key: str) -> Floats:
        found = getattr(figures[name], key)
        return np.array([found[query] for query in sorted(found)])

    found: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        found[name] = {}
        for key in ("ndcg",) if probs is None else ("ndcg", "rps"):
            row: dict[str, Any] = {"mean": round(float(values(name, key).mean()), 5), "queries": len(values(name, key))}
            against = {} if name == FIRST else {"change": FIRST}
            if variant.join == "mean":
                against["from_max"] = name.replace("mean", "max")
            for field, other in against.items():
                claim = compare_paired(values(name, key), values(other, key))
                row[field] = claim.interval.to_json() | {"p": round(claim.p, 5)}
            found[name][key] = row
    return found


def run(folder: Path, *, queries: int, seed: int) -> dict[str, Any]:
    """Run the benchmark on one thread.

    :param folder: what ``DARL_DATA`` names.
    :return: JSON-ready result.
    """
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.process_time()
    world = read_world(folder, queries=queries, seed=seed)
    model = SplitReranker.from_source(
        load_encoder(SETTINGS.base), GAINS, query_cap=SETTINGS.query_cap, item_cap=SETTINGS.item_cap
    ).eval()  # fmt: skip
    template = ItemTemplate(("=title", "=text"), chunks=MOST)
    encoded, times = encode(world, ItemRenderer(template, model.tokenizer(), SETTINGS.item_cap), model)
    between = time.process_time()
    figures = compare(encoded, model)
    torch.set_num_threads(threads)
    words = [len(page.item["text"].split()) for page in world.pages]
    return {
        "config": {
            "seed": seed, "folds": FOLDS, "cutoff": CUTOFF, "base": SETTINGS.base, "item_cap": SETTINGS.item_cap,
            "query_cap": SETTINGS.query_cap, "chunks": MOST, "fillers": FILLERS, "words": list(WORDS),
            "data": sets.digests(folder, (FOLDER,)),
        },
        "counts": {
            "queries": len(world.queries), "pages": len(world.pages), "pairs": len(encoded.pairs.grades),
            "words": spread(words),
            "chunks": spread(np.bincount(encoded.pair).tolist()),
        },
        "figures": figures, "milliseconds": times,
        "processor_seconds": {"encode": round(between - begin, 1), "grade": round(time.process_time() - between, 1)},
        "circumstances": describe_machine("torch"),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.chunks", description=__doc__)
    parser.add_argument("--queries", type=int, default=160, help="maximum queries (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, default=report.CHUNKS, help="JSON to write")
    args = parser.parse_args(argv)
    try:
        result = run(data_folder(), queries=args.queries, seed=args.seed)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    write_result(args.out, result)
    print(report.render_chunks(result))
    if args.out.resolve() == report.CHUNKS.resolve():
        report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
