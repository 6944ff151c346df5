"""``darl.toml``: one frozen dataclass per table.

Order: default, file, ``--set``. The resolved configuration is stored with the run and the bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.bundle import check_name
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.graph_contract import MAX_TOKENS
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import Settings, read_toml, setting
from darl_opensearch.text import MOST_CHUNKS, ItemTemplate


class Model(Settings, table="model"):
    """Table ``[model]``: the model to train."""

    name: str = setting(..., "name of the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = setting("1", "version of the bundle")
    backbone: str = setting("split", "registered backbone")
    base: str = setting(
        "packaged:all-MiniLM-L6-v2",
        "checkpoint to start training from: a folder or hub name that the backbone reads, or bundle:FOLDER",
    )  # fmt: skip
    query_cap: int = setting(64, "maximum tokens per query", least=4)
    item_cap: int = setting(192, "maximum tokens per item; longer texts are truncated when rendered", least=8)
    query_prompt: str | None = setting(
        None, "text before each query, not counted by query_cap; empty: none; without the key: the base's own prompt"
    )
    item_prompt: str | None = setting(
        None, "text before each item, likewise; the split backbone has one, the cross backbone none"
    )

    def check(self) -> None:
        """Check the name, and the caps together."""
        check_name(self.name, self.version)
        if self.query_cap + self.item_cap + 4 > MAX_TOKENS:
            raise UsageError(
                f"[model] query_cap + item_cap + 4 is {self.query_cap + self.item_cap + 4} tokens",
                todo=f"stay within {MAX_TOKENS}: ML Commons truncates longer pairs",
            )


class Data(Settings, table="data"):
    """Table ``[data]``: files, relative to the configuration."""

    items: str = setting(..., "JSONL file with one item per line")
    judgments: str = setting(..., "JSONL file with query_id, query, item_id and grade")
    dev: str = setting("", "judgments for early stopping and calibration; empty: hold out dev_share of the queries")
    new: str = setting("", "judgments of newly selected samples, for the augmented stage")
    ood_dev: str = setting("", "judgments of OOD traffic, for model selection in the augmented stages")
    dev_share: float = setting(
        0.2, "share of the judged queries to hold out if there is no dev file", above=0, below=0.9
    )
    traffic: str = setting("", "JSONL file with held-out queries (query, optional items), for the OOD calibration")
    traffic_share: float = setting(
        0.2, "share of the judged queries to hold out for the OOD calibration if there is no traffic file", above=0,
        below=0.9,
    )  # fmt: skip
    allow_near: bool = setting(False, "allow near-duplicate queries across files; identical queries are always refused")

    held_out_queries: int = setting(10_000, "maximum queries that dev_share and traffic_share each hold out", least=1)
    sample_pairs: int = setting(
        50_000, "maximum training pairs, sampled, to fit the head stage and the detector on", least=1
    )
    store: Literal["auto", "memory", "disk"] = setting(
        "auto", "keep items and judgments in memory or on disk; auto: on disk above 512 MB"
    )


class Grades(Settings, table="grades"):
    """Table ``[grades]``: the scale, lowest first."""

    names: tuple[str, ...] = setting(..., "name of each grade")
    gains: tuple[float, ...] = setting((), "gain of each grade; empty: 0, 1, 2, …")

    @property
    def scale(self) -> GradeScale:
        """The scale."""
        return GradeScale(self.names, self.gains or tuple(float(g) for g in range(len(self.names))))


class Template(Settings, table="template"):
    """Table ``[template]``: how an item becomes text."""

    fields: tuple[str, ...] = setting(..., "fields in order; '=title' without a label, 'content.text' inside an object")
    id_field: str = setting("id", "field that identifies an item")
    slice_field: str = setting("", "field that holds an item's slice")
    separator: str = setting(" | ", "text between fields")
    chunks: int = setting(
        1, "maximum chunks in which an item longer than item_cap is scored; its best-scoring chunk counts. 1: only the "
        "first. A model in the cluster always scores only the first", least=1, most=MOST_CHUNKS,
    )  # fmt: skip
    title_fields: int = setting(1, "leading fields that each chunk repeats, fewer than all", least=0)

    @property
    def item_template(self) -> ItemTemplate:
        """The template."""
        in_chunks = {"chunks": self.chunks, "title_fields": self.title_fields} if self.chunks > 1 else {}
        return ItemTemplate(self.fields, self.id_field, self.slice_field or None, self.separator, **in_chunks)


class Term(Settings, table="loss.also"):
    """Entry of ``[[loss.also]]``: a further term of the loss."""

    kind: Literal["grade", "rank"] = setting(..., "kind of the term")
    name: str = setting(..., "registered loss of that kind")
    params: Mapping[str, Any] = setting({}, "its parameters")
    weight: float = setting(1.0, "weight of the term", least=0)


class Loss(Settings, table="loss"):
    """Table ``[loss]``: grade term + rank_weight × rank term."""

    grade: str = setting("cumulative", "registered grade loss")
    grade_params: Mapping[str, Any] = setting({}, "its parameters")
    grade_weight: float = setting(1.0, "weight of the grade term", least=0)
    rank: str = setting("pairwise", "registered rank loss")
    rank_params: Mapping[str, Any] = setting({}, "its parameters")
    rank_weight: float = setting(1.0, "weight of the rank term, averaged per query; 0: no rank term", least=0)
    also: tuple[Term, ...] = setting((), "further terms, each a table [[loss.also]] with kind, name, params and weight")
    l2: float = setting(0.01, "L2 penalty on the head's weights", least=0)
    groups: Literal["", "slice"] = setting(
        "", "slice: optimise the worst slice (Group DRO); empty: the mean over all queries"
    )
    group_step: float = setting(0.01, "step size by which the weight of a slice with a high loss grows", least=0)
    group_queries: int = setting(10, "minimum queries of a group; smaller slices are merged into one", least=1)

    def check(self) -> None:
        """Refuse a loss without a term."""
        if not self.grade_weight + self.rank_weight > 0:
            raise UsageError("[loss] grade_weight and rank_weight are both 0", todo="set at least one of them")


class Stages(Settings, table="stages"):
    """Table ``[stages]``: the stages and how they train."""

    run: tuple[str, ...] = setting(("head", "full"), "stages in order")
    cutoff: int = setting(10, "cutoff of the dev nDCG that decides whether a stage is kept", least=1)
    head_steps: int = setting(60, "maximum L-BFGS steps in the head stage", least=1)
    full_epochs: int = setting(2, "maximum epochs of the full stage", least=0)
    full_learning_rate: float = setting(5e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(2e-3, "peak learning rate of the head in the full stage", least=0)
    batch_queries: int = setting(4, "queries per step, with all their judged items", least=1)
    items_per_query: int = setting(
        16, "maximum items per query and step in the full stage, resampled each epoch", least=1
    )
    evaluations: int = setting(2, "dev evaluations per epoch, each with a checkpoint", least=1)
    folds: int = setting(
        3, "folds of the training queries that the full stage is measured on if there are fewer than 150 dev queries, "
        "each after training without it; 0: none", least=0,
    )  # fmt: skip
    patience: int = setting(
        3, "evaluations without a better dev RPS (head stage: dev loss) before a stage stops", least=1
    )
    micro_queries: int = setting(0, "maximum queries encoded at once, to bound memory; 0: all of a step", least=0)
    device: str = setting("auto", "auto (a GPU if there is one), cpu, cuda or cuda:1")
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "precision of the forward pass in training and its dev evaluations; bf16 requires hardware support"
    )
    checkpoint_steps: int = setting(0, "steps between additional checkpoints; 0: only at evaluations", least=0)

    def check(self) -> None:
        """Refuse a single fold, which leaves nothing to train on."""
        if self.folds == 1:
            raise UsageError("[stages] folds is 1", todo="set at least 2, or 0 for none")


class Augment(Settings, table="augment"):
    """Table ``[augment]``: the stage ``augmented``, on new samples and old ones."""

    replay: float = setting(1.0, "old queries replayed per new query, resampled each epoch", least=0)
    epochs: int = setting(2, "maximum epochs", least=0)
    learning_rate: float = setting(1e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(1e-3, "peak learning rate of the head", least=0)
    l2_to_start: float = setting(0.0, "L2 penalty on the distance from the stage's initial weights", least=0)
    ema: float = setting(
        0.0, "decay of the moving average of the weights, which is evaluated and kept; 0: no averaging", least=0,
        below=1,
    )  # fmt: skip


class Interpolate(Settings, table="interpolate"):
    """Table ``[interpolate]``: the stage ``interpolate``, between the weights before and after."""

    between: Literal["augmented", "start"] = setting(
        "augmented", "augmented: start from the weights before that stage; start: from the run's initial weights"
    )
    coefficients: tuple[float, ...] = setting(
        tuple(n / 10 for n in range(11)), "candidates; 0 is the weights before, 1 those after, and 0 is always tried",
        least=0, most=1,
    )  # fmt: skip
    tolerance: float = setting(0.005, "maximum loss of mean dev nDCG against coefficient 0", least=0)

    def check(self) -> None:
        """Refuse coefficients that are all 0."""
        if not any(self.coefficients):
            raise UsageError("[interpolate] coefficients has no value above 0", todo="set some, such as [0.5, 1.0]")


class Distill(Settings, table="distill"):
    """Table ``[distill]``: the stage ``distill``, which learns from a teacher's scores."""

    teacher: str = setting("", "file:scores.jsonl, bundle:folder, or the URL of a rerank endpoint")
    teacher_params: Mapping[str, Any] = setting({}, "its parameters")
    pool: str = setting(
        "", "JSONL file with unjudged pairs (query, items) for the teacher to score in addition to the judged ones"
    )
    loss: str = setting("margin_mse", "registered distillation loss")
    loss_params: Mapping[str, Any] = setting({}, "its parameters")
    weight: float = setting(1.0, "weight of the distillation loss", above=0)
    graded: float = setting(1.0, "weight of the [loss] terms on the judged pairs", least=0)
    normalise: Literal["none", "zscore", "logit"] = setting(
        "zscore", "how to transform teacher scores: not at all, to z-scores per query, or to the logit of a probability"
    )
    max_missing: float = setting(0.0, "maximum share of pairs that the teacher leaves unscored", least=0, below=1)
    epochs: int = setting(2, "maximum epochs", least=0)
    learning_rate: float = setting(2e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(5e-3, "peak learning rate of the head", least=0)


class Lora(Settings, table="lora"):
    """Table ``[lora]``: the adapters of the backbone ``llm``."""

    rank: int = setting(16, "rank of the adapter matrices", least=1)
    alpha: float = setting(32.0, "scale: an adapter's output is multiplied by alpha / rank", above=0)
    dropout: float = setting(0.05, "dropout on an adapter's inputs in training", least=0, below=1)
    targets: tuple[str, ...] = setting((), "matrices to adapt, such as q_proj; empty: all of the decoder's")
    layers: int = setting(
        0, "number of top layers that get adapters; 0: all. The layers below train nothing, and cost no memory or "
        "backward pass", least=0,
    )  # fmt: skip
    quantise: Literal["", "nf4"] = setting(
        "", "nf4: quantise the frozen weights to 4 bits (QLoRA), which requires a GPU; empty: do not quantise"
    )


class Llm(Settings, table="llm"):
    """Table ``[llm]``: the prompt of the backbone ``llm``."""

    prompt: str = setting("", "prompt with {query}, then {item}, and optionally {grades}; empty: the built-in prompt")
    chat: bool = setting(True, "use the model's chat template if it has one")
    grade_words: tuple[str, ...] = setting((), "word for each grade, lowest first; empty: the grade names")
    checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, more time")


class Ood(Settings, table="ood"):
    """Table ``[ood]``: when a pair counts as out of distribution."""

    detector: str = setting("knn", "registered detector")
    features: Literal["query", "item", "pair"] = setting("pair", "features that the detector reads")
    layers: Literal["last", "average"] = setting(
        "last", "layers to pool features from: the last, or the average of all"
    )
    params: Mapping[str, Any] = setting({}, "its parameters")
    alpha: float = setting(0.05, "false-alarm rate on in-distribution traffic", above=0, below=0.5)
    depth: int = setting(50, "items to retrieve for a traffic query without items", least=1)


class Config(Settings):
    """A whole ``darl.toml``."""

    model: Model
    data: Data
    grades: Grades
    template: Template
    loss: Loss = Loss()
    stages: Stages = Stages()
    augment: Augment = Augment()
    interpolate: Interpolate = Interpolate()
    distill: Distill = Distill()
    lora: Lora = Lora()
    llm: Llm = Llm()
    ood: Ood = Ood()
    seed: int = setting(0, "random seed", least=0, most=2**63 - 1)

    def to_json(self) -> dict[str, Any]:
        """Render the resolved configuration."""
        return dataclasses.asdict(self)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a ``darl.toml``.

    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :raises InputError: if it is not TOML or lacks a table.
    :raises UsageError: for an unknown key or a value out of range.
    """
    return parse_config(read_toml(path, overrides), where=str(path))


def parse_config(data: Mapping[str, Any], *, where: str) -> Config:
    """Build a configuration from parsed TOML or JSON.

    :param data: tables by name.
    """
    config = Config.read(data, where)
    try:
        config.grades.scale  # noqa: B018  refuses an invalid scale
        config.template.item_template  # noqa: B018
    except InputError as err:
        raise InputError(err.what, where=where, todo=err.todo) from err
    return config
