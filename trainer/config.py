"""``darl.toml``: one frozen dataclass a table, unknown keys refused with the nearest known one.

Order: default, file, ``--set``. The resolved configuration is stored with the run and the bundle.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import check_name
from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.scores import GradeScale
from darl_opensearch.text import ItemTemplate
from trainer.registry import nearest


def _opt(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _need(help: str) -> Any:
    return field(metadata={"help": help})


def _check_range(table: str, config: Any, low: float, *names: str) -> None:
    """Refuse a value below ``low``, or one that is not finite."""
    for name in names:
        if not low <= (value := getattr(config, name)) < math.inf:
            raise UsageError(f"[{table}] {name} is {value}", todo=f"give {low} or more")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Table ``[model]``: what is trained."""

    name: str = _need("name of the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = _opt("1", "version of the bundle")
    backbone: str = _opt("split", "registered backbone")
    base: str = _opt(
        "packaged:all-MiniLM-L6-v2",
        "where training starts: a checkpoint that the backbone reads (a folder or a hub name), or bundle:FOLDER",
    )
    query_cap: int = _opt(64, "most tokens of a query")
    item_cap: int = _opt(192, "most tokens of an item; its text is cut when it is rendered")

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

    items: str = _need("JSONL with one item a line")
    judgments: str = _need("JSONL: query_id, query, item_id, grade")
    dev: str = _opt("", "judgments for early stopping and calibration; empty: dev_share of the queries")
    new: str = _opt("", "judgments of newly selected samples, for the augmented stage")
    ood_dev: str = _opt("", "judgments of traffic unlike the training set's, which choose in the augmented stages")
    dev_share: float = _opt(0.2, "share of the judged queries held out when there is no dev file")
    traffic: str = _opt("", "JSONL with held-out queries (query, optional items), for the OOD calibration")
    traffic_share: float = _opt(0.2, "share of the judged queries held out for it when there is no traffic file")
    allow_near: bool = _opt(False, "let files share queries of nearly the same words; the same query is refused always")

    held_out_queries: int = _opt(10_000, "most queries that dev_share, and traffic_share, hold out")
    sample_pairs: int = _opt(50_000, "most training pairs that the head stage and the detector are fitted on, drawn")
    store: str = _opt("auto", "items and judgments in memory, on disk, or auto: on disk above 512 MB")

    def __post_init__(self) -> None:
        """Check shares, bounds and the store."""
        _check_range("data", self, 1, "held_out_queries", "sample_pairs")
        if self.store not in ("auto", "memory", "disk"):
            raise UsageError(f"[data] store is {self.store!r}", todo="choose auto, memory or disk")
        for name in ("dev_share", "traffic_share"):
            if not 0.0 < getattr(self, name) < 0.9:
                raise UsageError(f"[data] {name} is {getattr(self, name)}", todo="give a share between 0 and 0.9")


@dataclass(frozen=True, kw_only=True)
class Grades:
    """Table ``[grades]``: the scale, lowest first."""

    names: tuple[str, ...] = _need("a name for each grade")
    gains: tuple[float, ...] = _opt((), "gain of each grade; empty: 0, 1, 2, …")

    @property
    def scale(self) -> GradeScale:
        """The scale."""
        return GradeScale(self.names, self.gains or tuple(float(g) for g in range(len(self.names))))


@dataclass(frozen=True, kw_only=True)
class Template:
    """Table ``[template]``: how an item becomes text."""

    fields: tuple[str, ...] = _need("fields in order; '=title' without a label")
    id_field: str = _opt("id", "field that identifies an item")
    slice_field: str = _opt("", "field that names the part of traffic")
    separator: str = _opt(" | ", "text between fields")

    @property
    def item_template(self) -> ItemTemplate:
        """The template."""
        return ItemTemplate(self.fields, self.id_field, self.slice_field or None, self.separator)


@dataclass(frozen=True, kw_only=True)
class Term:
    """Entry of ``[[loss.also]]``: a further term of the loss."""

    kind: str = _need("grade or rank")
    name: str = _need("registered loss of that kind")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    weight: float = _opt(1.0, "weight of the term")

    def __post_init__(self) -> None:
        """Check kind and weight."""
        if self.kind not in ("grade", "rank"):
            raise UsageError(f"[[loss.also]] kind is {self.kind!r}", todo="choose grade or rank")
        _check_range("loss.also", self, 0, "weight")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Table ``[loss]``: grade term + rank_weight × rank term."""

    grade: str = _opt("cumulative", "registered grade loss")
    grade_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    grade_weight: float = _opt(1.0, "weight of the grade term")
    rank: str = _opt("pairwise", "registered rank loss")
    rank_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    rank_weight: float = _opt(3.0, "weight of the rank term, averaged per query; 0 leaves it out")
    also: tuple[Term, ...] = _opt((), "further terms, each a table [[loss.also]] with kind, name, params, weight")
    l2: float = _opt(0.01, "squared-weight penalty on the head")
    groups: str = _opt("", "slice: train for the worst slice (Group DRO); empty: for the mean of all queries")
    group_step: float = _opt(0.01, "how fast the weight of a slice with a high loss grows, a step")
    group_queries: int = _opt(10, "queries that a slice needs to be one of its own; smaller ones count as one")

    def __post_init__(self) -> None:
        """Check weights and groups."""
        _check_range("loss", self, 0, "grade_weight", "rank_weight", "l2", "group_step")
        _check_range("loss", self, 1, "group_queries")
        if self.groups not in ("", "slice"):
            raise UsageError(f"[loss] groups is {self.groups!r}", todo="write slice, or leave it out")
        if not self.grade_weight + self.rank_weight > 0:
            raise UsageError("[loss] grade_weight and rank_weight are both 0", todo="give one of them a weight")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Table ``[stages]``: what is trained, in which order."""

    run: tuple[str, ...] = _opt(("head", "full"), "stages in order")
    cutoff: int = _opt(10, "ranks counted by the dev nDCG that decides whether a stage stays")
    head_steps: int = _opt(60, "most L-BFGS steps of the head stage")
    full_epochs: int = _opt(2, "most epochs of the full stage")
    full_learning_rate: float = _opt(2e-5, "peak learning rate of the encoder")
    head_learning_rate: float = _opt(5e-3, "peak learning rate of the head in the full stage")
    batch_queries: int = _opt(4, "queries in a step, with all their judged items")
    items_per_query: int = _opt(16, "most items of a query in a step of the full stage, drawn anew each epoch")
    evaluations: int = _opt(2, "dev evaluations an epoch; a checkpoint is written at each")
    patience: int = _opt(3, "evaluations without a better dev loss before a stage ends")
    micro_queries: int = _opt(0, "most queries encoded at a time, to bound the memory; 0: all of a step")
    device: str = _opt("auto", "auto (a GPU where there is one), cpu, cuda, or cuda:1")
    precision: str = _opt("fp32", "of the forward pass on the way down: fp32, or bf16 where the hardware has it")
    checkpoint_steps: int = _opt(0, "steps between checkpoints beside those at evaluations; 0: only those")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("stages", self, 0, "full_epochs", "full_learning_rate", "head_learning_rate")
        _check_range("stages", self, 0, "micro_queries", "checkpoint_steps")
        _check_range("stages", self, 1, "cutoff", "head_steps", "batch_queries", "items_per_query")
        _check_range("stages", self, 1, "evaluations", "patience")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"[stages] precision is {self.precision!r}", todo="choose fp32 or bf16")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Table ``[augment]``: the stage ``augmented``, on new samples and old ones."""

    replay: float = _opt(1.0, "old queries a new one in each epoch, drawn anew")
    epochs: int = _opt(2, "most epochs")
    learning_rate: float = _opt(1e-5, "peak learning rate of the encoder")
    head_learning_rate: float = _opt(1e-3, "peak learning rate of the head")
    l2_to_start: float = _opt(0.0, "squared-distance penalty to the weights that the stage starts from")
    ema: float = _opt(0.0, "decay of the moving average of the weights that is evaluated and kept; 0: the weights")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("augment", self, 0, "replay", "epochs", "learning_rate", "head_learning_rate", "l2_to_start")
        if not 0.0 <= self.ema < 1.0:
            raise UsageError(f"[augment] ema is {self.ema}", todo="give a decay from 0 to below 1, such as 0.99")


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Table ``[interpolate]``: the stage ``interpolate``, between the weights before and after."""

    between: str = _opt("augmented", "augmented: from the weights before that stage; start: from the run's start")
    coefficients: tuple[float, ...] = _opt(
        tuple(n / 10 for n in range(11)), "tried; 0 is the weights before, 1 those after, and 0 is always tried"
    )
    tolerance: float = _opt(0.005, "most that the mean nDCG of the dev queries may fall below that of coefficient 0")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _check_range("interpolate", self, 0, "tolerance")
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

    teacher: str = _opt("", "file:scores.jsonl, bundle:folder, or the URL of a rerank endpoint")
    teacher_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "the teacher's parameters"})
    pool: str = _opt("", "JSONL with unjudged pairs (query, items) that the teacher scores beside the judged ones")
    loss: str = _opt("margin_mse", "registered distillation loss")
    loss_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    weight: float = _opt(1.0, "weight of the distillation loss")
    graded: float = _opt(1.0, "weight of the loss of [loss], on the judged pairs")
    normalise: str = _opt("zscore", "teacher scores become: none as they are, zscore per query, logit of a probability")
    max_missing: float = _opt(0.0, "share of the pairs that the teacher may leave without a score")
    epochs: int = _opt(2, "most epochs")
    learning_rate: float = _opt(2e-5, "peak learning rate of the encoder")
    head_learning_rate: float = _opt(5e-3, "peak learning rate of the head")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _check_range("distill", self, 0, "weight", "graded", "epochs", "learning_rate", "head_learning_rate")
        if not self.weight > 0:
            raise UsageError("[distill] weight is 0", todo="give it a weight, or leave the stage out of [stages] run")
        if self.normalise not in ("none", "zscore", "logit"):
            raise UsageError(f"[distill] normalise is {self.normalise!r}", todo="choose none, zscore or logit")
        if not 0.0 <= self.max_missing < 1.0:
            raise UsageError(f"[distill] max_missing is {self.max_missing}", todo="give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Table ``[lora]``: the adapters of the backbone ``llm``."""

    rank: int = _opt(16, "inner size of an adapter")
    alpha: float = _opt(32.0, "an adapter's output is multiplied by alpha / rank")
    dropout: float = _opt(0.05, "share of an adapter's inputs that is left out in training")
    targets: tuple[str, ...] = _opt((), "matrices with an adapter, such as q_proj; empty: all of the decoder's")
    quantise: str = _opt("", "nf4: the frozen weights in 4 bits (QLoRA), which needs a GPU; empty: as they are")

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _check_range("lora", self, 1, "rank")
        if not 0.0 < self.alpha < math.inf:
            raise UsageError(f"[lora] alpha is {self.alpha}", todo="give a number above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"[lora] dropout is {self.dropout}", todo="give a share from 0 to below 1")
        if self.quantise not in ("", "nf4"):
            raise UsageError(f"[lora] quantise is {self.quantise!r}", todo="write nf4, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Llm:
    """Table ``[llm]``: what the backbone ``llm`` reads."""

    prompt: str = _opt("", "text with {query}, then {item}, and {grades} where wanted; empty: the built-in prompt")
    chat: bool = _opt(True, "put the prompt into the model's chat template, where it has one")
    grade_words: tuple[str, ...] = _opt((), "word of each grade, lowest first; empty: the grades' names")
    checkpointing: bool = _opt(False, "recompute activations in the backward pass: less memory, more time")


@dataclass(frozen=True, kw_only=True)
class Ood:
    """Table ``[ood]``: what decides that a pair is strange."""

    detector: str = _opt("knn", "registered detector")
    features: str = _opt("pair", "what it reads: query, item or pair")
    layers: str = _opt("last", "layers that the features are pooled of: last, or the average of all")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "the detector's parameters"})
    alpha: float = _opt(0.05, "false-alarm rate on traffic like the training set's")
    depth: int = _opt(50, "items retrieved for a traffic query that names none")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _check_range("ood", self, 1, "depth")
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
    seed: int = _opt(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Check the seed (numpy takes none below 0, and torch none above 64 bits) and what each stage needs."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}", todo="give a whole number from 0 on")
        from trainer.stages import STAGES  # here: stages are built on this module

        for stage in self.stages.run:
            if stage not in set(STAGES):
                raise UsageError(f"[stages] run names {stage!r}", todo=nearest(stage, STAGES))
        for stage in self.stages.run:
            STAGES[stage].make().check(self)

    def to_json(self) -> dict[str, Any]:
        """Render the resolved configuration.

        :return: JSON-ready values.
        """
        return dataclasses.asdict(self)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a ``darl.toml``.

    :param path: the file.
    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :return: the configuration.
    :raises InputError: when it is not TOML or lacks a table.
    :raises UsageError: for an unknown key or a value out of range.
    """
    return parse_config(read_toml(path, overrides), where=str(path))


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of tables.

    :param path: the file.
    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :return: its tables, unchecked.
    :raises InputError: when it cannot be read or is not TOML.
    :raises UsageError: for an override that is none.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"not TOML ({err})", where=str(path), todo="correct the line") from err
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", where=str(path), todo="check the path") from err
    for text in overrides:
        _override(data, text)
    return data


def parse_config(data: Mapping[str, Any], *, where: str) -> Config:
    """Build a configuration from parsed TOML or JSON.

    :param data: tables by name.
    :param where: path to name in an error.
    :return: the configuration.
    """
    config: Config = build(Config, data, where)
    try:
        config.grades.scale  # noqa: B018  refuses a scale that is not one
        config.template.item_template  # noqa: B018
    except InputError as err:
        raise InputError(err.what, where=where, todo=err.todo) from err
    return config


def _override(data: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not sign or (not dot and table != "seed"):
        raise UsageError(f"--set {text!r} is not table.key=value", todo="write for example --set loss.l2=0.1")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    if dot:
        if not isinstance(values := data.setdefault(table, {}), dict):
            raise UsageError(f"--set {text!r}: {table} is not a table", todo="write for example --set loss.l2=0.1")
        values[name] = parsed
    else:
        data[table] = parsed


def build(cls: type[Any], data: Any, where: str, table: str = "") -> Any:
    """Make a dataclass of a table, and of the tables in it.

    :param cls: a frozen dataclass whose fields are keys, or dataclasses again.
    :param data: what the file says.
    :param where: path to name in an error.
    :param table: the table's name; empty: the whole file.
    :return: the dataclass.
    :raises UsageError: for an unknown or missing key, or a value of another type or out of range.
    """
    label = f"[{table}] " if table else ""
    if not isinstance(data, Mapping):
        raise UsageError(f"{label.strip() or 'the file'} is not a table", where=where, todo="write [table] and keys")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise UsageError(f"unknown key {label}{key}", where=where, todo=nearest(key, hints))
        values[key] = _convert(hints[key], value, where, f"{label}{key}", key)
    required = {
        f.name for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }  # fmt: skip
    if missing := sorted(required - set(values)):
        what = ", ".join(f"{label}{name}" if table else f"[{name}]" for name in missing)
        raise UsageError(f"{what} is missing", where=where, todo="add it; docs/configuration.md lists every key")
    try:
        return cls(**values)
    except (UsageError, InputError) as err:
        raise type(err)(err.what, where=where, todo=err.todo) from err


def _convert(hint: Any, value: Any, where: str, label: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where, key)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise UsageError(f"{label} is {value!r}, not a list", where=where, todo="write [ … ]")
        return tuple(_convert(inner, part, where, label, key) for part in value)
    if isinstance(hint, types.UnionType):
        return value
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise UsageError(f"{label} is {value!r}", where=where, todo=f"choose one of {choices}")
        return value
    if origin is not None and issubclass(typing.cast("type[Any]", origin), Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{label} is {value!r}, not a table", where=where, todo="write { key = value }")
        return dict(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{label} is {value!r}, not {hint.__name__}", where=where, todo="correct the value")
    return value
