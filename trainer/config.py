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
    base: str = _opt("packaged:all-MiniLM-L6-v2", "bi-encoder to start from: a folder or a hub name")
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
    dev_share: float = _opt(0.2, "share of the judged queries held out when there is no dev file")
    traffic: str = _opt("", "JSONL with held-out queries (query, optional items), for the OOD calibration")

    traffic_share: float = _opt(0.2, "share of the judged queries held out for it when there is no traffic file")

    def __post_init__(self) -> None:
        """Check the shares."""
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
class Loss:
    """Table ``[loss]``: grade term + rank_weight × rank term."""

    grade: str = _opt("cumulative", "registered grade loss")
    grade_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    grade_weight: float = _opt(1.0, "weight of the grade term")
    rank: str = _opt("pairwise", "registered rank loss")
    rank_params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its parameters"})
    rank_weight: float = _opt(3.0, "weight of the rank term, averaged per query; 0 leaves it out")
    l2: float = _opt(0.01, "squared-weight penalty on the head")

    def __post_init__(self) -> None:
        """Check the weights."""
        _check_range("loss", self, 0, "grade_weight", "rank_weight", "l2")
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

    def __post_init__(self) -> None:
        """Check stage names and ranges."""
        _check_range("stages", self, 0, "full_epochs", "full_learning_rate", "head_learning_rate")
        _check_range("stages", self, 1, "cutoff", "head_steps", "batch_queries", "evaluations", "patience")
        for stage in self.run:
            if stage not in ("head", "full"):
                raise UsageError(f"[stages] run names {stage!r}", todo=nearest(stage, ("head", "full")))


@dataclass(frozen=True, kw_only=True)
class Ood:
    """Table ``[ood]``: what decides that a pair is strange."""

    detector: str = _opt("knn", "registered detector")
    features: str = _opt("pair", "what it reads: query, item or pair")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "the detector's parameters"})
    alpha: float = _opt(0.05, "false-alarm rate on traffic like the training set's")
    depth: int = _opt(50, "items retrieved for a traffic query that names none")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _check_range("ood", self, 1, "depth")
        if self.features not in ("query", "item", "pair"):
            raise UsageError(f"[ood] features is {self.features!r}", todo="choose query, item or pair")
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
    ood: Ood = field(default_factory=Ood)
    seed: int = _opt(0, "seed of everything random")

    def __post_init__(self) -> None:
        """Check the seed: numpy takes none below 0, and torch none above 64 bits."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}", todo="give a whole number from 0 on")

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
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"not TOML ({err})", where=str(path), todo="correct the line") from err
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", where=str(path), todo="check the path") from err
    for text in overrides:
        _override(data, text)
    return parse_config(data, where=str(path))


def parse_config(data: Mapping[str, Any], *, where: str) -> Config:
    """Build a configuration from parsed TOML or JSON.

    :param data: tables by name.
    :param where: path to name in an error.
    :return: the configuration.
    """
    config: Config = _build(Config, data, where, "")
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


def _build(cls: type[Any], data: Any, where: str, table: str) -> Any:
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
        return _build(typing.cast("type[Any]", hint), value, where, key)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise UsageError(f"{label} is {value!r}, not a list", where=where, todo="write [ … ]")
        return tuple(_convert(inner, part, where, label, key) for part in value)
    if origin is not None and issubclass(typing.cast("type[Any]", origin), Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{label} is {value!r}, not a table", where=where, todo="write { key = value }")
        return dict(value)
    if isinstance(hint, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{label} is {value!r}, not {hint.__name__}", where=where, todo="correct the value")
    return value
