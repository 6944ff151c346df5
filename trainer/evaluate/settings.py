"""Options of ``darl evaluate`` and ``darl gate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from darl_opensearch.errors import UsageError
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.settings import FilePath, InputFile, Settings, setting

ALSO = ("ndcg@10", "rps")  # reported besides the deciding measure
_MEASURE = re.compile(r"(?:ndcg|p)@([1-9]\d{0,2}|1000)|ap|rr")


class ScoringOptions(Settings):
    """How judged pairs are scored and intervals resampled."""

    relevant_from: int = setting(
        1, "lowest grade that counts as relevant in p@C, ap and rr", least=1, env="DARL_RELEVANT_FROM"
    )
    int8: bool = setting(False, "score with the quantised graphs", env="DARL_INT8")
    provider: Provider = setting(
        "cpu", "where the graphs run; cuda falls back to cpu, with a warning, without a usable GPU", env="DARL_PROVIDER"
    )
    threads: int | None = setting(
        None, "batches scored in parallel.  [default: the cores available to this process]", least=1, env="DARL_THREADS"
    )
    draws: int = setting(
        2000, "resamples per interval, sign patterns per p-value", least=100, most=1_000_000, env="DARL_DRAWS"
    )
    seed: int = setting(0, "random seed", least=0, env="DARL_SEED")


class EvaluationOptions(ScoringOptions):
    """Options of ``darl evaluate``.

    :param models: folders of bundles or finished runs.
    :param parts: name and file of each judged part, ``id`` first.
    """

    models: tuple[Path, ...] = ()
    parts: tuple[tuple[str, Path], ...] = ()
    items: tuple[FilePath, ...] = setting(..., "judged or retrieved items, JSONL", env="DARL_ITEMS")
    against: tuple[str, ...] = setting(
        (),
        "baseline to compare with: cosine (the first bundle's encoder), bm25, int8 (its quantised graph), a bundle or "
        "a TREC run", env="DARL_AGAINST", metavar="NAME|BUNDLE|RUN",
    )  # fmt: skip
    depths: tuple[int, ...] = setting(
        (), "also rerank the first stage to this depth.  [default: 0 5 10 20 50 100 with --run]", least=0, most=10_000,
        env="DARL_DEPTH", flag="--depth",
    )  # fmt: skip
    first_stage: FilePath | None = setting(
        None, "TREC run with the first stage's ranking, for --depth.  [default: BM25 over the items]",
        env="DARL_FIRST_STAGE", flag="--run",
    )  # fmt: skip
    cutoffs: tuple[int, ...] = setting(
        (3, 10), "cutoff of nDCG and precision", least=1, most=1000, env="DARL_CUTOFF", flag="--cutoff"
    )


class GateOptions(ScoringOptions):
    """Table ``[gate]``: what a new bundle must show."""

    measure: str = setting(
        "ndcg@10", "measure of order: ndcg@C, p@C, ap or rr; the grades are measured by rps", env="DARL_GATE_MEASURE",
    )  # fmt: skip
    tolerance: float = setting(
        0.01, "loss of order tolerated on both parts: the lower end of its interval must stay above minus this",
        least=0, env="DARL_GATE_TOLERANCE",
    )  # fmt: skip
    min_queries: int = setting(
        30, "minimum scored queries; with fewer the gate refuses", least=2, env="DARL_GATE_MIN_QUERIES"
    )
    train: tuple[InputFile, ...] = setting(
        (), "judgments that the new bundle was trained on; the test parts must not share queries with them",
        env="DARL_GATE_TRAIN",
    )  # fmt: skip
    allow: tuple[Literal["query", "near-query"], ...] = setting(
        (), "kinds of leak to accept: query or near-query", env="DARL_GATE_ALLOW"
    )
    changed: str = setting(
        "", "reason why grades or item template may differ from the old bundle's", env="DARL_GATE_CHANGED",
        metavar="WHY",
    )  # fmt: skip
    draws: int = setting(
        10_000, "resamples per interval, sign patterns per p-value", least=100, most=1_000_000, env="DARL_DRAWS"
    )

    def check(self) -> None:
        """Refuse an unknown measure."""
        if not _MEASURE.fullmatch(self.measure):
            raise UsageError(
                f"unknown measure of order {self.measure!r}",
                todo="choose ndcg@C, p@C (C in 1..1000), ap or rr; the grades are always measured by rps",
            )

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Cutoffs of all measures."""
        return tuple(sorted({int(name.partition("@")[2]) for name in self.measures if "@" in name}))

    @property
    def gaining(self) -> tuple[str, ...]:
        """Measures whose gain on the control arm decides."""
        return self.measure, "rps"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measure of order, then the others that are reported."""
        return tuple(dict.fromkeys((self.measure, *ALSO)))
