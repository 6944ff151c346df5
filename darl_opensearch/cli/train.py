"""``darl train``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import UsageError, load
from darl_opensearch.records.items import describe_blank
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options


@click.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path), default="darl.toml")
@with_options
def cli(
    config: Path,
    folder: FolderPath | None = setting(
        None, "Folder of the run.  [default: runs/NAME-VERSION next to the configuration]", env="DARL_RUN", flag="--run"
    ),
    overrides: tuple[str, ...] = setting(
        (), "Set a key of the configuration.", env="DARL_SET", flag="--set", metavar="TABLE.KEY=VALUE"
    ),
    seed: int | None = setting(None, "Random seed.", env="DARL_SEED"),
    fresh: bool = setting(False, "Start over instead of resuming the run in the folder."),
    processes: int = setting(
        1,
        "Training processes on this machine, one per GPU if there are GPUs.",
        least=1,
        env="DARL_PROCESSES",
    ),
    dry_run: bool = setting(False, "Read and check all input, print counts, and train nothing."),
    as_json: bool = JSON,
) -> None:
    """Train a reranker from the judgments that CONFIG (darl.toml) names.

    Stages run in order, and each is kept only if it improves the dev queries. The same command resumes a killed run
    from its last checkpoint. Under torchrun, or with --processes, several processes train one model.
    """
    plan = load("trainer.stages.plan", "train")
    reports = load("trainer.report", "train")
    from trainer import distributed
    from trainer.config import read_config
    from trainer.stages.registry import check_plan

    if processes > 1 and not dry_run:
        if "WORLD_SIZE" in os.environ:
            raise UsageError("torchrun has already started the processes", todo="omit --processes")
        distributed.launch(_process, (sys.argv,), processes)
        return
    resolved = read_config(config, [*overrides, *([f"seed={seed}"] if seed is not None else [])])
    check_plan(resolved, str(config))
    where = folder or config.parent / "runs" / f"{resolved.model.name}-{resolved.model.version}"
    if dry_run:
        with progress_line("reading", total=1):
            _, data = plan.prepare(resolved, config.parent)
        emit({"run": str(where), "data": data.summary()}, as_json=as_json,
             text=f"{config} is valid. It would be trained into {where}:\n{_counts(data.summary())}")  # fmt: skip
        return
    with (
        distributed.join(resolved.stages.device),
        progress_line("reading", total=1, visible=distributed.is_main()) as line,
    ):
        trained = plan.train(resolved, config.parent, where, fresh=fresh, report=line.report)
        speaks, alone = distributed.is_main(), distributed.world() == 1
    if speaks:
        if trained.data.get("without_text"):
            note(f"warning: {describe_blank(trained.data['without_text'])}")
        for stage in trained.result["stages"]:
            note(_verdict(stage, reports.describe_decision(stage)))
        note(f"the report is in {reports.write_report(where).path}")
        result: dict[str, Any] = {"run": str(where), **trained.result}
        emit(result, as_json=as_json, text=_summary(where, trained.result))
    if not alone:
        distributed.leave(0)


def _process(argv: list[str]) -> None:
    """Run as one of the processes started by --processes."""
    from darl_opensearch.cli import main

    sys.argv = [*argv, "--processes", "1"]  # the last one counts
    main(announce=False)


def _counts(data: dict[str, Any]) -> str:
    """Summarise the training data for people; --json has the digests."""
    lines = [f"  {'items':9} {data['items']['count']:,}"]
    lines += [
        f"  {name:9} {part['pairs']:,} pairs of {part['queries']:,} queries"
        for name, part in data.items()
        if isinstance(part, dict) and "pairs" in part
    ]
    if apart := data.get("set_aside"):
        lines.append(f"  nearly all items are judged: {len(apart)} are set aside for calibration ({_first_few(apart)})")
    if data.get("without_text"):
        lines.append(f"  {describe_blank(data['without_text'])}")
    return "\n".join(lines)


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _verdict(stage: dict[str, Any], verdict: str) -> str:
    if "rps_gain" not in stage:  # a run of an earlier version
        return f"stage {stage['stage']}: {verdict}"
    gain = stage["rps_gain"]
    dev, out_of_fold = gain["n"] - stage["out_of_fold"], stage["out_of_fold"]
    if len(stage["judged_on"]) > 1:
        over = "dev and OOD dev queries"
    elif out_of_fold:  # the dev set's own change is in the table below, and may point the other way
        over = f"{gain['n']:,} queries ({dev:,} dev queries, the others out of fold)"
    else:
        over = f"{dev:,} dev queries"
    gains = ", ".join(
        f"{name} {values['mean']:+.4f} [{values['low']:+.4f}, {values['high']:+.4f}]"
        for name, values in (("RPS", gain), ("nDCG", stage["gain"]))
        if values["mean"] is not None
    )
    return f"stage {stage['stage']}: {verdict}" + (f"; paired gain over {over}: {gains}" if gains else "")


def _summary(where: Path, result: dict[str, Any]) -> str:
    lines = []
    for title, start, trained in (("dev set", "start", "dev"), ("OOD dev set", "ood_dev_start", "ood_dev")):
        if start in result:
            lines.append(f"{title:18}{'start':>10}{'trained':>10}")
            lines += [f"{key:18}{value!s:>10}{result[trained][key]!s:>10}" for key, value in result[start].items()]
    ood = result["ood"]
    lines.append(f"OOD: {ood['detector']} on {ood['features']} features, alpha {ood['alpha']}, "
                 f"{ood['calibration_pairs']} calibration pairs of {ood['calibration_queries']} queries")  # fmt: skip
    for kind in ("unseen", "seen"):
        share = ood[f"false_alarms_{kind}_items"]
        if share:
            lines.append(f"  false alarms, {kind} items: {share['mean']:.3f} [{share['low']:.3f}, {share['high']:.3f}]")
    if apart := ood.get("items_set_aside"):
        lines.append(f"  nearly all items are judged: {apart} were set aside for calibration")
    return "\n".join([*lines, f"Next: darl export {where}"])
