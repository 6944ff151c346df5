"""``darl.toml``: one frozen dataclass a table.

Order: default, file, ``--set``. The resolved configuration is stored with the run and the bundle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import check_name
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.fields import check_least, option, parameters, required
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import ItemTemplate
from trainer.toml_tables import build, read_toml


@dataclass(frozen=True, kw_only=True)
class Model:
    """Table ``[model]``: what is trained."""

    name: str = required("name of the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = option("1", "version of the bundle")
    backbone: str = option("split", "registered backbone")
    base: str = option(
        "packaged:all-MiniLM-L6-v2",
        "where training starts: a checkpoint that the backbone reads (a folder or a hub name), or bundle:FOLDER",
    )
    query_cap: int = option(64, "most tokens of a query")
    item_cap: int = option(192, "most tokens of an item; its text is cut when it is rendered")

    def __post_init__(self) -> None:
        """Check name and caps."""
        check_name(self.name, self.version)
        for name, low in (("query_cap", 4), ("item_cap", 8)):
            if getattr(self, name) < low:
                raise UsageError(f"[model] {name} is {getattr(self, name)}", todo=f"give at least {low} tokens")
        if self.query_cap + self.item_cap + 4 > 512:
            raise UsageError(
                f"[model] query_cap + item_cap + 4 is {self.query_cap + self.item_cap + 4} tokens",
                todo="stay within 512: ML Commons cuts every pair there",
            )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Table ``[data]``: files, relative to the configuration."""

    items: str = required("JSONL with one item a line")
    judgments: str = required("JSONL: query_id, query, item_id, grade")
    dev: str = option("", "judgments for early stopping and calibration; empty: dev_share of the queries")
    new: str = option("", "judgments of newly selected samples, for the augmented stage")
    ood_dev: str = option("", "judgments of traffic unlike the training set's, which choose in the augmented stages")
    dev_share: float = option(0.2, "share of the judged queries held out when there is no dev file")
    traffic: str = option("", "JSONL with held-out queries (query, optional items), for the OOD calibration")
    traffic_share: float = option(0.2, "share of the judged queries held out for it when there is no traffic file")
    allow_near: bool = option(
        False, "let files share queries of nearly the same words; the same query is refused always"
    )

    held_out_queries: int = option(10_000, "most queries that dev_share, and traffic_share, hold out")
    sample_pairs: int = option(50_000, "most training pairs that the head stage and the detector are fitted on, drawn")
    store: str = option("auto", "items and judgments in memory, on disk, or auto: on disk above 512 MB")

    def __post_init__(self) -> None:
        """Check shares, bounds and the store."""
        check_least("data", self, 1, "held_out_queries", "sample_pairs")
        if self.store not in ("auto", "memory", "disk"):
            raise UsageError(f"[data] store is {self.store!r}", todo="choose auto, memory or disk")
        for name in ("dev_share", "traffic_share"):
            if not 0.0 < getattr(self, name) < 0.9:
                raise UsageError(f"[data] {name} is {getattr(self, name)}", todo="give a share between 0 and 0.9")


@dataclass(frozen=True, kw_only=True)
class Grades:
    """Table ``[grades]``: the scale, lowest first."""

    names: tuple[str, ...] = required("a name for each grade")
    gains: tuple[float, ...] = option((), "gain of each grade; empty: 0, 1, 2, …")

    @property
    def scale(self) -> GradeScale:
        """The scale."""
        return GradeScale(self.names, self.gains or tuple(float(g) for g in range(len(self.names))))


@dataclass(frozen=True, kw_only=True)
class Template:
    """Table ``[template]``: how an item becomes text."""

    fields: tuple[str, ...] = required("fields in order; '=title' without a label")
    id_field: str = option("id", "field that identifies an item")
    slice_field: str = option("", "field that names the part of traffic")
    separator: str = option(" | ", "text between fields")

    @property
    def item_template(self) -> ItemTemplate:
        """The template."""
        return ItemTemplate(self.fields, self.id_field, self.slice_field or None, self.separator)


@dataclass(frozen=True, kw_only=True)
class Term:
    """Entry of ``[[loss.also]]``: a further term of the loss."""

    kind: str = required("grade or rank")
    name: str = required("registered loss of that kind")
    params: Mapping[str, Any] = parameters("its parameters")
    weight: float = option(1.0, "weight of the term")

    def __post_init__(self) -> None:
        """Check kind and weight."""
        if self.kind not in ("grade", "rank"):
            raise UsageError(f"[[loss.also]] kind is {self.kind!r}", todo="choose grade or rank")
        check_least("loss.also", self, 0, "weight")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Table ``[loss]``: grade term + rank_weight × rank term."""

    grade: str = option("cumulative", "registered grade loss")
    grade_params: Mapping[str, Any] = parameters("its parameters")
    grade_weight: float = option(1.0, "weight of the grade term")
    rank: str = option("pairwise", "registered rank loss")
    rank_params: Mapping[str, Any] = parameters("its parameters")
    rank_weight: float = option(3.0, "weight of the rank term, averaged per query; 0 leaves it out")
    also: tuple[Term, ...] = option((), "further terms, each a table [[loss.also]] with kind, name, params, weight")
    l2: float = option(0.01, "squared-weight penalty on the head")
    groups: str = option("", "slice: train for the worst slice (Group DRO); empty: for the mean of all queries")
    group_step: float = option(0.01, "how fast the weight of a slice with a high loss grows, a step")
    group_queries: int = option(10, "queries that a slice needs to be one of its own; smaller ones count as one")

    def __post_init__(self) -> None:
        """Check weights and groups."""
        check_least("loss", self, 0, "grade_weight", "rank_weight", "l2", "group_step")
        check_least("loss", self, 1, "group_queries")
        if self.groups not in ("", "slice"):
            raise UsageError(f"[loss] groups is {self.groups!r}", todo="write slice, or leave it out")
        if not self.grade_weight + self.rank_weight > 0:
            raise UsageError("[loss] grade_weight and rank_weight are both 0", todo="give one of them a weight")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Table ``[stages]``: what is trained, in which order."""

    run: tuple[str, ...] = option(("head", "full"), "stages in order")
    cutoff: int = option(10, "ranks counted by the dev nDCG that decides whether a stage stays")
    head_steps: int = option(60, "most L-BFGS steps of the head stage")
    full_epochs: int = option(2, "most epochs of the full stage")
    full_learning_rate: float = option(2e-5, "peak learning rate of the encoder")
    head_learning_rate: float = option(5e-3, "peak learning rate of the head in the full stage")
    batch_queries: int = option(4, "queries in a step, with all their judged items")
    items_per_query: int = option(16, "most items of a query in a step of the full stage, drawn anew each epoch")
    evaluations: int = option(2, "dev evaluations an epoch; a checkpoint is written at each")
    patience: int = option(3, "evaluations without a better dev loss before a stage ends")
    micro_queries: int = option(0, "most queries encoded at a time, to bound the memory; 0: all of a step")
    device: str = option("auto", "auto (a GPU where there is one), cpu, cuda, or cuda:1")
    precision: str = option("fp32", "of the forward pass on the way down: fp32, or bf16 where the hardware has it")
    checkpoint_steps: int = option(0, "steps between checkpoints beside those at evaluations; 0: only those")

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_least("stages", self, 0, "full_epochs", "full_learning_rate", "head_learning_rate")
        check_least("stages", self, 0, "micro_queries", "checkpoint_steps")
        check_least("stages", self, 1, "cutoff", "head_steps", "batch_queries", "items_per_query")
        check_least("stages", self, 1, "evaluations", "patience")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"[stages] precision is {self.precision!r}", todo="choose fp32 or bf16")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Table ``[augment]``: the stage ``augmented``, on new samples and old ones."""

    replay: float = option(1.0, "old queries a new one in each epoch, drawn anew")
    epochs: int = option(2, "most epochs")
    learning_rate: float = option(1e-5, "peak learning rate of the encoder")
    head_learning_rate: float = option(1e-3, "peak learning rate of the head")
    l2_to_start: float = option(0.0, "squared-distance penalty to the weights that the stage starts from")
    ema: float = option(0.0, "decay of the moving average of the weights that is evaluated and kept; 0: the weights")

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_least("augment", self, 0, "replay", "epochs", "learning_rate", "head_learning_rate", "l2_to_start")
        if not 0.0 <= self.ema < 1.0:
            raise UsageError(f"[augment] ema is {self.ema}", todo="give a decay from 0 to below 1, such as 0.99")


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Table ``[interpolate]``: the stage ``interpolate``, between the weights before and after."""

    between: str = option("augmented", "augmented: from the weights before that stage; start: from the run's start")
    coefficients: tuple[float, ...] = option(
        tuple(n / 10 for n in range(11)), "tried; 0 is the weights before, 1 those after, and 0 is always tried"
    )
    tolerance: float = option(0.005, "most that the mean nDCG of the dev queries may fall below that of coefficient 0")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        check_least("interpolate", self, 0, "tolerance")
        if self.between not in ("augmented", "start"):
            raise UsageError(f"[interpolate] between is {self.between!r}", todo="choose augmented or start")
        for value in self.coefficients:
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"[interpolate] coefficients holds {value}", todo="stay within 0 and 1")
        if not any(self.coefficients):
            raise UsageError("[interpolate] coefficients has none above 0", todo="give some, such as [0.5, 1.0]")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Table ``[distill]``: the stage ``distill``, which learns from a teacher's scores."""

    teacher: str = option("", "file:scores.jsonl, bundle:folder, or the URL of a rerank endpoint")
    teacher_params: Mapping[str, Any] = parameters("the teacher's parameters")
    pool: str = option("", "JSONL with unjudged pairs (query, items) that the teacher scores beside the judged ones")
    loss: str = option("margin_mse", "registered distillation loss")
    loss_params: Mapping[str, Any] = parameters("its parameters")
    weight: float = option(1.0, "weight of the distillation loss")
    graded: float = option(1.0, "weight of the loss of [loss], on the judged pairs")
    normalise: str = option(
        "zscore", "teacher scores become: none as they are, zscore per query, logit of a probability"
    )
    max_missing: float = option(0.0, "share of the pairs that the teacher may leave without a score")
    epochs: int = option(2, "most epochs")
    learning_rate: float = option(2e-5, "peak learning rate of the encoder")
    head_learning_rate: float = option(5e-3, "peak learning rate of the head")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        check_least("distill", self, 0, "weight", "graded", "epochs", "learning_rate", "head_learning_rate")
        if not self.weight > 0:
            raise UsageError("[distill] weight is 0", todo="give it a weight, or leave the stage out of [stages] run")
        if self.normalise not in ("none", "zscore", "logit"):
            raise UsageError(f"[distill] normalise is {self.normalise!r}", todo="choose none, zscore or logit")
        if not 0.0 <= self.max_missing < 1.0:
            raise UsageError(f"[distill] max_missing is {self.max_missing}", todo="give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Table ``[lora]``: the adapters of the backbone ``llm``."""

    rank: int = option(16, "inner size of an adapter")
    alpha: float = option(32.0, "an adapter's output is multiplied by alpha / rank")
    dropout: float = option(0.05, "share of an adapter's inputs that is left out in training")
    targets: tuple[str, ...] = option((), "matrices with an adapter, such as q_proj; empty: all of the decoder's")
    quantise: str = option("", "nf4: the frozen weights in 4 bits (QLoRA), which needs a GPU; empty: as they are")

    def __post_init__(self) -> None:
        """Check ranges and names."""
        check_least("lora", self, 1, "rank")
        if not 0.0 < self.alpha < math.inf:
            raise UsageError(f"[lora] alpha is {self.alpha}", todo="give a number above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"[lora] dropout is {self.dropout}", todo="give a share from 0 to below 1")
        if self.quantise not in ("", "nf4"):
            raise UsageError(f"[lora] quantise is {self.quantise!r}", todo="write nf4, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Llm:
    """Table ``[llm]``: what the backbone ``llm`` reads."""

    prompt: str = option("", "text with {query}, then {item}, and {grades} where wanted; empty: the built-in prompt")
    chat: bool = option(True, "put the prompt into the model's chat template, where it has one")
    grade_words: tuple[str, ...] = option((), "word of each grade, lowest first; empty: the grades' names")
    checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")


@dataclass(frozen=True, kw_only=True)
class Ood:
    """Table ``[ood]``: what decides that a pair is strange."""

    detector: str = option("knn", "registered detector")
    features: str = option("pair", "what it reads: query, item or pair")
    layers: str = option("last", "layers that the features are pooled of: last, or the average of all")
    params: Mapping[str, Any] = parameters("the detector's parameters")
    alpha: float = option(0.05, "false-alarm rate on traffic like the training set's")
    depth: int = option(50, "items retrieved for a traffic query that names none")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        check_least("ood", self, 1, "depth")
        if self.features not in ("query", "item", "pair"):
            raise UsageError(f"[ood] features is {self.features!r}", todo="choose query, item or pair")
        if self.layers not in ("last", "average"):
            raise UsageError(f"[ood] layers is {self.layers!r}", todo="choose last or average")
        if not 0.0 < self.alpha < 0.5:
            raise UsageError(f"[ood] alpha is {self.alpha}", todo="give a rate between 0 and 0.5, such as 0.05")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole ``darl.toml``."""

    model: Model
    data: Data
    grades: Grades
    template: Template
    loss: Loss = field(default_factory=Loss)
    stages: Stages = field(default_factory=Stages)
    augment: Augment = field(default_factory=Augment)
    interpolate: Interpolate = field(default_factory=Interpolate)
    distill: Distill = field(default_factory=Distill)
    lora: Lora = field(default_factory=Lora)
    llm: Llm = field(default_factory=Llm)
    ood: Ood = field(default_factory=Ood)
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Check the seed: numpy takes none below 0, and torch none above 64 bits."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}", todo="give a whole number from 0 on")

    def to_json(self) -> dict[str, Any]:
        """Render the resolved configuration."""
        return dataclasses.asdict(self)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a ``darl.toml``.

    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :raises InputError: when it is not TOML or lacks a table.
    :raises UsageError: for an unknown key or a value out of range.
    """
    return parse_config(read_toml(path, overrides), where=str(path))


def parse_config(data: Mapping[str, Any], *, where: str) -> Config:
    """Build a configuration from parsed TOML or JSON.

    :param data: tables by name.
    :param where: path to name in an error.
    """
    config: Config = build(Config, data, where)
    try:
        config.grades.scale  # noqa: B018  refuses a scale that is not one
        config.template.item_template  # noqa: B018
    except InputError as err:
        raise InputError(err.what, where=where, todo=err.todo) from err
    return config
