"""``cycle.toml``: what a cycle reads, chooses, asks, trains, demands and switches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.fields import check_least, option, parameters, required
from darl_opensearch.spans import ago, parse_span
from trainer.dasa.config import SelectConfig
from trainer.evaluate.gate import GateOptions
from trainer.judging.config import JudgeConfig
from trainer.toml_tables import build, read_toml

STAGES_KEY = "[train] stages"


@dataclass(frozen=True, kw_only=True)
class Model:
    """Table ``[model]``: where it begins."""

    bundle: str = required("folder of the bundle that serves before the first cycle")
    config: str = required("the darl.toml that it was trained by")
    catalogue: tuple[str, ...] = option((), "JSONL files of items that were not there then")
    held_out: tuple[str, ...] = option((), "JSONL files of queries, such as further test sets, that are never selected")


@dataclass(frozen=True, kw_only=True)
class Log:
    """Table ``[log]``: the OOD log."""

    spool: str = option("", "read this spool; empty: the data stream of the cluster of [release]")
    stream: str = option("darl-ood", "name of the data stream")
    since: str = option("30d", "how far back: 12h, 30d, 4w; empty: all of it")

    def __post_init__(self) -> None:
        """Check the span."""
        if self.since and parse_span(self.since) is None:
            raise UsageError(f"[log] since is {self.since!r}", todo="write a span such as 12h, 30d or 4w")

    def begin(self) -> datetime | None:
        """Find the time that ``since`` means now.

        :return: the earliest time of the log that is read; None: all of it.
        """
        return ago(parse_span(self.since))


@dataclass(frozen=True, kw_only=True)
class StartTable:
    """Table ``[start]``: when to begin."""

    when: str = option("drift", "drift: when the log's traffic has drifted, by the tests of [drift]; always")

    def __post_init__(self) -> None:
        """Check the word."""
        if self.when not in ("drift", "always"):
            raise UsageError(f"[start] when is {self.when!r}", todo="write drift or always")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Table ``[train]``: how the new version is trained, from the checkpoint of the one that serves."""

    stages: tuple[str, ...] = option(("refit",), "stages in order, in place of those of the darl.toml")
    ood_dev_share: float = option(0.2, "share of the selected queries that early stopping takes, of 25 queries or more")
    set: tuple[str, ...] = option((), "further keys of the darl.toml, as table.key=value")
    int8: bool = option(True, "also write the quantised graph")

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0.0 <= self.ood_dev_share <= 0.5:
            raise UsageError(f"[train] ood_dev_share is {self.ood_dev_share}", todo="give a share from 0 to 0.5")


@dataclass(frozen=True, kw_only=True)
class Release:
    """Table ``[release]``: where the new version serves."""

    url: str = option("", "the cluster; empty: none, and a release only points current.json to the new bundle")
    index: str = option(
        "", "the item index: texts that the log holds without, what a control query finds, a search before the switch"
    )
    mode: str = option("local", "local: the model runs in the cluster; connector: it asks a scorer")
    scorer_url: str = option("", "rerank route of the scorer of the new version, for connector")
    pipeline: str = option("darl", "the search pipelines that are switched: NAME and NAME-plain")
    keep: int = option(2, "earlier versions that stay deployed for a rollback; older ones are undeployed")
    webhook: str = option("", "address that is told of a release or a refusal", secret=True)

    def __post_init__(self) -> None:
        """Check mode and count."""
        if self.mode not in ("local", "connector"):
            raise UsageError(f"[release] mode is {self.mode!r}", todo="write local or connector")
        if self.mode == "connector" and self.url and not self.scorer_url:
            raise UsageError("[release] mode is connector, and scorer_url is empty", todo="name the scorer's route")
        check_least("release", self, 0, "keep")


@dataclass(frozen=True, kw_only=True)
class Gate(GateOptions):
    """Table ``[gate]``: what the new version has to show."""

    id_test: str = required("judgments of the traffic that was trained on; never trained on themselves")

    def __post_init__(self) -> None:
        """Refuse now what would end the cycle behind its training."""
        super().__post_init__()
        check_least("gate", self, 0, "seed")
        if self.threads is not None:
            check_least("gate", self, 1, "threads")


@dataclass(frozen=True, kw_only=True)
class CycleConfig:
    """A whole ``cycle.toml``."""

    model: Model
    gate: Gate
    folder: str = option("cycles", "where cycles are kept, beside the file")
    seed: int = option(0, "seed of everything random")
    log: Log = field(default_factory=Log)
    start: StartTable = field(default_factory=StartTable)
    drift: Mapping[str, Any] = parameters("options of darl monitor's drift tests")
    select: SelectConfig = field(default_factory=SelectConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    train: Train = field(default_factory=Train)
    release: Release = field(default_factory=Release)

    def __post_init__(self) -> None:
        """Check the seed."""
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}", todo="give 0 or more")

    def to_json(self) -> dict[str, Any]:
        """Render the resolved configuration, without addresses that may hold a token."""
        tables = dataclasses.asdict(self)
        for field_ in dataclasses.fields(Release):
            if field_.metadata.get("secret"):
                del tables["release"][field_.name]
        return tables


def read_cycle(path: Path, overrides: Sequence[str] = ()) -> CycleConfig:
    """Read a ``cycle.toml``.

    :param overrides: ``table.key=value`` texts.
    :raises DarlError: naming the key that is wrong.
    """
    config: CycleConfig = build(CycleConfig, read_toml(path, overrides), str(path))
    return config


def check_files(config: CycleConfig, base: Path) -> None:
    """Refuse a configuration that names a missing file, before the first step rather than at a later one.

    :param base: folder that its paths are relative to.
    :raises UsageError: naming the key.
    """
    model = config.model
    named = [("[model] config", model.config), *(("[model] catalogue", name) for name in model.catalogue)]
    named += [("[model] held_out", name) for name in model.held_out]
    named += [("[gate] id_test", config.gate.id_test), ("[judge] guideline", config.judge.guideline)]
    named += [("[judge] gold", config.judge.gold), *(("[gate] train", str(path)) for path in config.gate.train)]
    for key, name in named:
        if name and not (base / name).is_file():
            raise UsageError(f"{key} names a file that is not there", where=str(base / name), todo="correct the path")
