"""What fewer tokens in an item state would cost: clusters of an item's token states, on the insurance sample.

Content tokens are merged by Ward's method to a fraction of their number (Clavié et al. 2024, arXiv:2409.14683); a
cluster is the mean of its states, and counts in the kernels as often as it has tokens. Special tokens stay. All judged
test pairs are scored by the head as trained, and by one that the stage ``head`` fits again on merged tokens.
Differences from all tokens are paired by query.

    python -m benchmarks.serving.pooling demo-out      # the folder that darl demo leaves
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from benchmarks.measuring import write_result
from benchmarks.pages import difference
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.sample import read_sample
from darl_opensearch.resources import insurance_sample
from darl_opensearch.scoring.encode import CappedTokenizer, TokenSequence
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.models.heads import Head
from trainer.models.split import KERNEL_WIDTH, SplitReranker, to_units
from trainer.run_folder import load_run
from trainer.stages.head_stage import fit_head
from trainer.stages.objective import Objective
from trainer.stages.robust import HeadData
from trainer.training_data.pairs import Pairs
from trainer.training_data.reading import read_data

RESULT = Path(__file__).parent / "results" / "pooling.json"
FACTORS = (1.0, 1.5, 2.0, 3.0)  # content tokens per token that is left


@dataclass(frozen=True)
class Half:
    """A text's half.

    :param states: ``[s, h]`` of unit length.
    :param counts: ``[s]`` tokens that a state stands for.
    :param content: ``[s]`` float, 0 for special tokens.
    """

    ids: Tensor
    states: Tensor
    counts: Tensor
    content: Tensor
    pooled: Tensor

    @property
    def nbytes(self) -> int:
        """Size of its item state: eight bits a value, a scale a token, the pooled half in float."""
        tokens, width = self.states.shape
        return tokens * (width + 4 + 1) + 4 * width


@torch.no_grad()
def encode(model: SplitReranker, sequence: TokenSequence) -> Half:
    """Encode a text."""
    ids = torch.tensor([sequence.ids])
    ones = torch.ones_like(ids)
    states, _ = model.encode(ids, ones, torch.arange(ids.shape[1])[None], ones[:, None] * ones[:, :, None], "last")
    pooled = model.pool(states, ones.float(), torch.arange(ids.shape[1])[None], "item")
    content = (model.rarity[ids[0]] > 0).float()
    return Half(ids[0], to_units(states)[0], torch.ones_like(content), content, pooled[0])


def merge(half: Half, factor: float) -> Half:
    """Merge content tokens."""
    content = half.content > 0
    rows = half.states[content].numpy()
    if factor <= 1 or len(rows) < 3:
        return half
    clusters = fcluster(linkage(rows, "ward"), max(1, round(len(rows) / factor)), "maxclust")
    means = [rows[clusters == number].mean(axis=0) for number in np.unique(clusters)]
    counts = torch.tensor([float((clusters == number).sum()) for number in np.unique(clusters)])
    special = torch.ones(int((~content).sum()))
    states = torch.cat([half.states[~content], to_units(torch.from_numpy(np.stack(means)))])
    flags = torch.cat([special * 0, torch.ones_like(counts)])
    return Half(half.ids, states, torch.cat([special, counts]), flags, half.pooled)


@torch.no_grad()
def compare(model: SplitReranker, query: Half, item: Half) -> Tensor:
    """Compute the head's input, ``[12]``, as the model does if each state stands for one token."""
    sims, weight = query.states @ item.states.T, model.weigh(query.ids[None], torch.ones(1, len(query.ids)))[0]
    best = (sims - 2 * (1 - item.content)).amax(dim=1).clamp_min(-1.0)
    columns = [query.pooled @ item.pooled, best @ weight]
    for centre in model.centres.unbind():
        kernel = torch.exp((sims - centre).square() * (-0.5 / KERNEL_WIDTH**2)) @ item.counts
        columns.append(torch.log1p(kernel) @ weight)
    return torch.stack(columns)


def measure(folder: Path) -> dict[str, Any]:
    """Score the test pairs with each fraction of the tokens."""
    trained, bundle = load_run(folder / "run"), Bundle.open(folder / "bundle")
    model, config = trained.model, trained.config
    data = read_data(config, insurance_sample(), model.tokenizer())
    sample = read_sample(insurance_sample(), bundle)
    names = {query.query_id: query.query for query in sample.queries}
    judged = [(names[query], sample.texts[item], grade) for (query, item), grade in sample.grades.items()]
    parts = {"train": data.judged(data.sampled), "dev": data.judged(data.dev)}
    texts = {name: pairs.texts for name, pairs in parts.items()} | {"test": [(q, i) for q, i, _ in judged]}
    everything = [pair for pairs in texts.values() for pair in pairs]
    capped = CappedTokenizer(model.tokenizer(), config.model.query_cap, config.model.item_cap)
    queries = {query: encode(model, capped.query(query)) for query in {query for query, _ in everything}}
    items = {item: encode(model, capped.items([item])[0]) for item in {item for _, item in everything}}
    objective = Objective.make(config.loss, config.grades.scale.gains)
    grades = np.array([grade for _, _, grade in judged])
    rows: list[dict[str, Any]] = []
    first: dict[str, tuple[NDArray[Any], ...]] = {}
    for factor in FACTORS:
        merged = {text: merge(half, factor) for text, half in items.items()}
        inputs = {
            name: torch.stack([compare(model, queries[query], merged[item]) for query, item in pairs])
            for name, pairs in texts.items()
        }
        for kind in ("as trained", "fitted again"):
            head = copy.deepcopy(model.head)
            if kind == "fitted again":
                _refit(head, parts, inputs, objective, config.stages.head_steps, config.stages.patience)
            figures = _score(head, inputs["test"], judged, grades, config.grades.scale.gains)
            scores, ndcg, rps = figures
            base = first.setdefault(kind, figures)
            off = np.abs(scores - base[0])
            rows.append({
                "factor": factor, "head": kind, "bytes": round(np.mean([h.nbytes for h in merged.values()])),
                "ndcg@10": bootstrap_mean(ndcg).to_json(), "ndcg_change": bootstrap_mean(ndcg - base[1]).to_json(),
                "rps_change": bootstrap_mean(rps - base[2]).to_json(),
                "score_off": {"mean": round(float(off.mean()), 4), "max": round(float(off.max()), 4)},
            })  # fmt: skip
    return {"queries": len(names), "pairs": len(judged), "rows": rows}


def _refit(
    head: Head, parts: dict[str, Pairs], inputs: dict[str, Tensor], objective: Objective, steps: int, patience: int
) -> None:
    train, dev = (HeadData(parts[name], inputs[name]) for name in ("train", "dev"))
    fit_head(head, train, dev=dev, objective=objective, steps=steps, patience=patience)


@torch.no_grad()
def _score(
    head: Head, inputs: Tensor, judged: Sequence[tuple[str, str, int]], grades: NDArray[Any], gains: Sequence[float]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the pairs' scores, and the queries' nDCG@10 and ranked probability score."""
    raw = head(inputs)
    scores, above = head.score(raw).numpy(), 1 - head.grade_probs(raw).numpy().cumsum(axis=1)[:, :-1]
    place = {query: number for number, query in enumerate(dict.fromkeys(query for query, _, _ in judged))}
    index = np.array([place[query] for query, _, _ in judged])
    ndcg = ndcg_per_query(scores, np.asarray(gains)[grades], index, cutoff=10)
    rps = ((above - (grades[:, None] > np.arange(above.shape[1]))) ** 2).mean(axis=1)
    return scores, np.array(list(ndcg.values())), np.bincount(index, rps) / np.bincount(index)


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("demo", type=Path, help="folder with run and bundle")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = measure(options.demo)
    write_result(options.out, result)
    for row in result["rows"]:
        off = row["score_off"]
        print(
            f"factor {row['factor']}, head {row['head']:12}: {row['bytes']:6} bytes, "
            f"nDCG@10 {row['ndcg@10']['mean']:.4f}, change {difference(row['ndcg_change'])}, "
            f"RPS {difference(row['rps_change'])}, scores off by {off['mean']} on average, {off['max']} at most"
        )


if __name__ == "__main__":
    main()
