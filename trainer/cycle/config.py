"""``cycle.toml``: the settings of a cycle's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Settings, read_fields, read_toml, setting
from darl_opensearch.spans import ago, parse_span
from darl_opensearch.states.options import StatesPlace, parse_item_count
from trainer.dasa.config import SelectConfig
from trainer.evaluate.looks import MOST_LOOKS
from trainer.evaluate.settings import GateOptions
from trainer.judging.config import JudgeConfig

STAGES_KEY = "[train] stages"


class ModelTable(Settings, table="model"):
    """Table ``[model]``: the model that the first cycle starts from."""

    bundle: str = setting(..., "folder of the bundle that serves before the first cycle")
    config: str = setting(..., "darl.toml that it was trained with")
    catalogue: tuple[str, ...] = setting((), "JSONL files of items added since")
    held_out: tuple[str, ...] = setting((), "JSONL files of queries that are never selected, such as further test sets")


class LogTable(Settings, table="log"):
    """Table ``[log]``: the OOD log."""

    spool: str = setting("", "spool to read; empty: the data stream of the cluster in [release]")
    stream: str = setting("darl-ood", "name of the OOD data stream")
    since: str = setting("30d", "how far back to read: 12h, 30d, 4w; empty: everything")

    def check(self) -> None:
        """Check the span."""
        if self.since and parse_span(self.since) is None:
            raise UsageError(f"[log] since is {self.since!r}", todo="write a span such as 12h, 30d or 4w")

    def begin(self) -> datetime | None:
        """Return the earliest log time to read, counted back from now; None: all of it."""
        return ago(parse_span(self.since))


class StartTable(Settings, table="start"):
    """Table ``[start]``: when to begin, and what a dry run estimates the control arm by."""

    when: Literal["drift", "always"] = setting("drift", "start a cycle when the [drift] tests report drift, or always")
    twin: str = setting(
        "", "bundle trained like the serving one with another seed; before the first control arm, the spread of their "
        "differences says how many control queries the gate needs",
    )  # fmt: skip


class TrainTable(Settings, table="train"):
    """Table ``[train]``: how the new version is trained from the serving version's checkpoint."""

    stages: tuple[str, ...] = setting(("refit",), "stages in order, instead of those in darl.toml")
    ood_dev_share: float = setting(
        0.2, "share of the selected queries for early stopping, from 25 queries on", least=0, most=0.5
    )
    set: tuple[str, ...] = setting((), "overrides of darl.toml, as table.key=value")
    int8: bool = setting(True, "also export the quantised graph")


class ReleaseTable(Settings, table="release"):
    """Table ``[release]``: where the new version serves."""

    url: str = setting(
        "", "URL of the cluster; empty: no cluster, and a release only points current.json to the new bundle"
    )
    index: str = setting(
        "", "item index, for texts missing from the log, the control arm's hits, and a trial search before the switch"
    )
    mode: Literal["local", "connector"] = setting(
        "local", "local: run the model in the cluster; connector: call a scorer"
    )
    scorer_url: str = setting("", "rerank URL of the new version's scorer, for connector")
    pipeline: str = setting("darl", "name of the search pipeline to switch, along with NAME-plain and NAME-hybrid")
    keep: int = setting(
        2, "earlier versions that stay deployed; older ones are undeployed until a rollback needs them", least=0
    )
    webhook: str = setting("", "URL to notify of a release or a refusal", secret=True)

    def check(self) -> None:
        """Check that the mode has what it needs."""
        if self.mode == "connector" and self.url and not self.scorer_url:
            raise UsageError("[release] mode is connector, but scorer_url is empty", todo="set it to its rerank route")


class WarmTable(StatesPlace, table="warm"):
    """Table ``[warm]``: item states that the new version finds when it begins to serve."""

    items: str = setting(
        "", "items of [release] index to encode before the switch: all, or as a number those that the OOD log has "
        "most pairs of; empty: none",
    )  # fmt: skip

    def check(self) -> None:
        """Check the number, and that there is a folder."""
        if self.items:
            parse_item_count(self.items)
            if self.states is None:
                raise UsageError("[warm] states is empty", todo="set it to the folder that darl serve uses")


class GateTable(GateOptions, table="gate"):
    """Table ``[gate]``: the test that the new version must pass."""

    id_test: str = setting(..., "judgments of in-distribution traffic, never trained on")
    looks: int = setting(
        1, "looks at the control arm, judged in as many equal shares until the gate can decide; 1: all at once",
        least=1, most=MOST_LOOKS,
    )  # fmt: skip


class CycleConfig(Settings):
    """A whole ``cycle.toml``."""

    model: ModelTable
    gate: GateTable
    folder: str = setting("cycles", "folder for the cycles, next to this file")
    seed: int = setting(0, "random seed", least=0)
    log: LogTable = LogTable()
    start: StartTable = StartTable()
    drift: Mapping[str, Any] = setting({}, "options of darl monitor's drift tests")
    select: SelectConfig = SelectConfig()
    judge: JudgeConfig = JudgeConfig()
    train: TrainTable = TrainTable()
    release: ReleaseTable = ReleaseTable()
    warm: WarmTable = WarmTable()

    def check(self) -> None:
        """Check that there is an index to warm from, and a quantised graph for the gate."""
        if self.gate.int8 and not self.train.int8:
            raise UsageError(
                "[gate] int8 is true, and [train] int8 is false", todo="set both: the gate scores with that graph"
            )
        if self.warm.items and not (self.release.url and self.release.index):
            raise UsageError("[warm] items needs [release] url and index", todo="set them, or leave out [warm]")

    def to_json(self) -> dict[str, Any]:
        """Render the resolved configuration, without addresses that may hold a token."""
        tables = dataclasses.asdict(self)
        for name, declared in read_fields(ReleaseTable).items():
            if declared.field.secret:
                del tables["release"][name]
        return tables


def read_cycle(path: Path, overrides: Sequence[str] = ()) -> CycleConfig:
    """Read a ``cycle.toml``.

    :param overrides: ``table.key=value`` texts.
    :raises DarlError: naming the key that is wrong.
    """
    return CycleConfig.read(read_toml(path, overrides), str(path))


def check_files(config: CycleConfig, base: Path) -> None:
    """Refuse a configuration that names a missing file, before the first step.

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
            raise UsageError(f"{key} names a file that does not exist", where=str(base / name), todo="correct the path")
