"""``darl.toml``: one frozen dataclass a table.

Order: default, file, ``--set``. The resolved configuration is stored with the run and the bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.bundle import check_name
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import Settings, read_toml, setting
from darl_opensearch.text import ItemTemplate


class Model(Settings, table="model"):
    """Table ``[model]``: what is trained."""

    name: str = setting(..., "name of the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = setting("1", "version of the bundle")
    backbone: str = setting("split", "registered backbone")
    base: str = setting(
        "packaged:all-MiniLM-L6-v2",
        "where training starts: a checkpoint that the backbone reads (a folder or a hub name), or bundle:FOLDER",
    )
    query_cap: int = setting(64, "most tokens of a query", least=4)
    item_cap: int = setting(192, "most tokens of an item; its text is cut when it is rendered", least=8)

    def check(self) -> None:
        """Check the name, and the caps together."""
        check_name(self.name, self.version)
        if self.query_cap + self.item_cap + 4 > 512:
            raise UsageError(
                f"[model] query_cap + item_cap + 4 is {self.query_cap + self.item_cap + 4} tokens",
                todo="stay within 512: ML Commons cuts every pair there",
            )


class Data(Settings, table="data"):
    """Table ``[data]``: files, relative to the configuration."""

    items: str = setting(..., "JSONL with one item a line")
    judgments: str = setting(..., "JSONL: query_id, query, item_id, grade")
    dev: str = setting("", "judgments for early stopping and calibration; empty: dev_share of the queries")
    new: str = setting("", "judgments of newly selected samples, for the augmented stage")
    ood_dev: str = setting("", "judgments of traffic unlike the training set's, which choose in the augmented stages")
    dev_share: float = setting(
        0.2, "share of the judged queries held out when there is no dev file", above=0, below=0.9
    )
    traffic: str = setting("", "JSONL with held-out queries (query, optional items), for the OOD calibration")
    traffic_share: float = setting(
        0.2, "share of the judged queries held out for it when there is no traffic file", above=0, below=0.9
    )
    allow_near: bool = setting(
        False, "let files share queries of nearly the same words; the same query is refused always"
    )

    held_out_queries: int = setting(10_000, "most queries that dev_share, and traffic_share, hold out", least=1)
    sample_pairs: int = setting(
        50_000, "most training pairs that the head stage and the detector are fitted on, drawn", least=1
    )
    store: Literal["auto", "memory", "disk"] = setting(
        "auto", "items and judgments in memory, on disk, or auto: on disk above 512 MB"
    )


class Grades(Settings, table="grades"):
    """Table ``[grades]``: the scale, lowest first."""

    names: tuple[str, ...] = setting(..., "a name for each grade")
    gains: tuple[float, ...] = setting((), "gain of each grade; empty: 0, 1, 2, …")

    @property
    def scale(self) -> GradeScale:
        """The scale."""
        return GradeScale(self.names, self.gains or tuple(float(g) for g in range(len(self.names))))


class Template(Settings, table="template"):
    """Table ``[template]``: how an item becomes text."""

    fields: tuple[str, ...] = setting(..., "fields in order; '=title' without a label")
    id_field: str = setting("id", "field that identifies an item")
    slice_field: str = setting("", "field that names the part of traffic")
    separator: str = setting(" | ", "text between fields")

    @property
    def item_template(self) -> ItemTemplate:
        """The template."""
        return ItemTemplate(self.fields, self.id_field, self.slice_field or None, self.separator)


class Term(Settings, table="loss.also"):
    """Entry of ``[[loss.also]]``: a further term of the loss."""

    kind: Literal["grade", "rank"] = setting(..., "grade or rank")
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
    rank_weight: float = setting(3.0, "weight of the rank term, averaged per query; 0 leaves it out", least=0)
    also: tuple[Term, ...] = setting((), "further terms, each a table [[loss.also]] with kind, name, params, weight")
    l2: float = setting(0.01, "squared-weight penalty on the head", least=0)
    groups: Literal["", "slice"] = setting(
        "", "slice: train for the worst slice (Group DRO); empty: for the mean of all queries"
    )
    group_step: float = setting(0.01, "how fast the weight of a slice with a high loss grows, a step", least=0)
    group_queries: int = setting(
        10, "queries that a slice needs to be one of its own; smaller ones count as one", least=1
    )

    def check(self) -> None:
        """Refuse a loss without a term."""
        if not self.grade_weight + self.rank_weight > 0:
            raise UsageError("[loss] grade_weight and rank_weight are both 0", todo="give one of them a weight")


class Stages(Settings, table="stages"):
    """Table ``[stages]``: what is trained, in which order."""

    run: tuple[str, ...] = setting(("head", "full"), "stages in order")
    cutoff: int = setting(10, "ranks counted by the dev nDCG that decides whether a stage stays", least=1)
    head_steps: int = setting(60, "most L-BFGS steps of the head stage", least=1)
    full_epochs: int = setting(2, "most epochs of the full stage", least=0)
    full_learning_rate: float = setting(2e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(5e-3, "peak learning rate of the head in the full stage", least=0)
    batch_queries: int = setting(4, "queries in a step, with all their judged items", least=1)
    items_per_query: int = setting(
        16, "most items of a query in a step of the full stage, drawn anew each epoch", least=1
    )
    evaluations: int = setting(2, "dev evaluations an epoch; a checkpoint is written at each", least=1)
    patience: int = setting(3, "evaluations without a better dev loss before a stage ends", least=1)
    micro_queries: int = setting(0, "most queries encoded at a time, to bound the memory; 0: all of a step", least=0)
    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, or cuda:1")
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "of the forward pass on the way down: fp32, or bf16 where the hardware has it"
    )
    checkpoint_steps: int = setting(0, "steps between checkpoints beside those at evaluations; 0: only those", least=0)


class Augment(Settings, table="augment"):
    """Table ``[augment]``: the stage ``augmented``, on new samples and old ones."""

    replay: float = setting(1.0, "old queries a new one in each epoch, drawn anew", least=0)
    epochs: int = setting(2, "most epochs", least=0)
    learning_rate: float = setting(1e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(1e-3, "peak learning rate of the head", least=0)
    l2_to_start: float = setting(0.0, "squared-distance penalty to the weights that the stage starts from", least=0)
    ema: float = setting(
        0.0, "decay of the moving average of the weights that is evaluated and kept; 0: the weights", least=0, below=1
    )


class Interpolate(Settings, table="interpolate"):
    """Table ``[interpolate]``: the stage ``interpolate``, between the weights before and after."""

    between: Literal["augmented", "start"] = setting(
        "augmented", "augmented: from the weights before that stage; start: from the run's start"
    )
    coefficients: tuple[float, ...] = setting(
        tuple(n / 10 for n in range(11)),
        "tried; 0 is the weights before, 1 those after, and 0 is always tried",
        least=0,
        most=1,
    )
    tolerance: float = setting(
        0.005, "most that the mean nDCG of the dev queries may fall below that of coefficient 0", least=0
    )

    def check(self) -> None:
        """Refuse coefficients that try nothing."""
        if not any(self.coefficients):
            raise UsageError("[interpolate] coefficients has none above 0", todo="give some, such as [0.5, 1.0]")


class Distill(Settings, table="distill"):
    """Table ``[distill]``: the stage ``distill``, which learns from a teacher's scores."""

    teacher: str = setting("", "file:scores.jsonl, bundle:folder, or the URL of a rerank endpoint")
    teacher_params: Mapping[str, Any] = setting({}, "the teacher's parameters")
    pool: str = setting("", "JSONL with unjudged pairs (query, items) that the teacher scores beside the judged ones")
    loss: str = setting("margin_mse", "registered distillation loss")
    loss_params: Mapping[str, Any] = setting({}, "its parameters")
    weight: float = setting(1.0, "weight of the distillation loss", above=0)
    graded: float = setting(1.0, "weight of the loss of [loss], on the judged pairs", least=0)
    normalise: Literal["none", "zscore", "logit"] = setting(
        "zscore", "teacher scores become: none as they are, zscore per query, logit of a probability"
    )
    max_missing: float = setting(0.0, "share of the pairs that the teacher may leave without a score", least=0, below=1)
    epochs: int = setting(2, "most epochs", least=0)
    learning_rate: float = setting(2e-5, "peak learning rate of the encoder", least=0)
    head_learning_rate: float = setting(5e-3, "peak learning rate of the head", least=0)


class Lora(Settings, table="lora"):
    """Table ``[lora]``: the adapters of the backbone ``llm``."""

    rank: int = setting(16, "inner size of an adapter", least=1)
    alpha: float = setting(32.0, "an adapter's output is multiplied by alpha / rank", above=0)
    dropout: float = setting(0.05, "share of an adapter's inputs that is left out in training", least=0, below=1)
    targets: tuple[str, ...] = setting((), "matrices with an adapter, such as q_proj; empty: all of the decoder's")
    quantise: Literal["", "nf4"] = setting(
        "", "nf4: the frozen weights in 4 bits (QLoRA), which needs a GPU; empty: as they are"
    )


class Llm(Settings, table="llm"):
    """Table ``[llm]``: what the backbone ``llm`` reads."""

    prompt: str = setting("", "text with {query}, then {item}, and {grades} where wanted; empty: the built-in prompt")
    chat: bool = setting(True, "put the prompt into the model's chat template, where it has one")
    grade_words: tuple[str, ...] = setting((), "word of each grade, lowest first; empty: the grades' names")
    checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, more time")


class Ood(Settings, table="ood"):
    """Table ``[ood]``: what decides that a pair is strange."""

    detector: str = setting("knn", "registered detector")
    features: Literal["query", "item", "pair"] = setting("pair", "what it reads: query, item or pair")
    layers: Literal["last", "average"] = setting(
        "last", "layers that the features are pooled of: last, or the average of all"
    )
    params: Mapping[str, Any] = setting({}, "the detector's parameters")
    alpha: float = setting(0.05, "false-alarm rate on traffic like the training set's", above=0, below=0.5)
    depth: int = setting(50, "items retrieved for a traffic query that names none", least=1)


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
    seed: int = setting(0, "seed of everything random", least=0, most=2**63 - 1)

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
    """
    config = Config.read(data, where)
    try:
        config.grades.scale  # noqa: B018  refuses a scale that is not one
        config.template.item_template  # noqa: B018
    except InputError as err:
        raise InputError(err.what, where=where, todo=err.todo) from err
    return config
