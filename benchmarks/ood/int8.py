"""What int8 costs: the two graphs of a bundle side by side on the insurance sample's test part.

``python -m benchmarks.ood.int8 BUNDLE`` (``darl demo`` leaves one in ``demo-out/bundle``). Candidates are SQLite
BM25's top 50 of all kinds, as in the embedded demo. AUROC: pairs of new queries with new kinds against pairs of
known ones. Nothing is random but the bootstrap, whose seed is 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.backends import WINDOW
from darl_opensearch.cli.demo.measure import RouteRun, compare_routes, measure_quality
from darl_opensearch.cli.demo.sample import Sample, read_sample
from darl_opensearch.resources import insurance_sample
from darl_opensearch.scoring import Scorer
from darl_opensearch.stats.auroc import auroc
from darl_opensearch.stats.bootstrap import bootstrap_ratio

RESULT = Path(__file__).parent / "results" / "int8_insurance.json"


def measure(bundle: Bundle, sample: Sample, *, int8: bool) -> tuple[RouteRun, dict[str, Any]]:
    """Rank and flag everything with one of the graphs."""
    index = Bm25Index(sample.texts.items())
    run = RouteRun("int8" if int8 else "fp32")
    known: list[Any] = []
    new: list[Any] = []
    hits: list[float] = []
    totals: list[float] = []
    with Scorer.open(bundle, int8=int8) as scorer:
        for query in sample.queries:
            ids = [hit.item_id for hit in index.search(query.query, WINDOW)]
            scores = scorer.score(query.query, [sample.texts[i] for i in ids])
            run.add(query, [ids[i] for i in scores.order()[:10]], 0.0)
            fresh = np.array([i in sample.new for i in ids], dtype=bool)
            (known if query.seen else new).append(scores.ood_distance[~fresh if query.seen else fresh])
            if query.seen and (~fresh).any():
                hits.append(float(scores.is_ood[~fresh].sum()))
                totals.append(float((~fresh).sum()))
    share = bootstrap_ratio(np.array(hits), np.array(totals))
    quality = measure_quality(run, sample, sample.queries, bundle.card.scale.gains)
    return run, {
        "ndcg@10": quality["ndcg@10"], "queries": quality["queries"],
        "false_alarms": share.to_json(),
        "auroc_new_new": round(float(auroc(np.concatenate(known), np.concatenate(new))), 4),
    }  # fmt: skip


def main() -> None:
    """Measure both graphs, print and write."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.ood.int8 BUNDLE")
    bundle = Bundle.open(sys.argv[1])
    sample = read_sample(insurance_sample(), bundle)
    (fp32, before), (int8, after) = (measure(bundle, sample, int8=quantised) for quantised in (False, True))
    change = compare_routes(int8, fp32, sample, sample.queries, bundle.card.scale.gains)
    exported = {name: graph["ndcg_change"] for name, graph in bundle.card.graphs.items() if "ndcg_change" in graph}
    result = {
        "model": bundle.identity, "fp32": before, "int8": after, "ndcg_change": change.to_json(), "exported": exported,
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
