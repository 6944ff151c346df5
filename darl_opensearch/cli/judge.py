"""``darl judge``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import FolderPath, InputFile, InputFolder, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from darl_opensearch.scores import GradeScale
    from trainer.judging.config import JudgeConfig
else:
    JudgeConfig = load("trainer.judging.config", "train").JudgeConfig

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MARKS = {"used": "used", "unscored": "used without a score", "refused": "refused", "waiting": "waiting for people"}


@click.command()
@click.argument("tasks", metavar="TASKS...", nargs=-1, required=True, type=_FILE)
@with_options
def cli(
    tasks: tuple[Path, ...],
    out: FolderPath = setting(..., "Folder for the work; give the same folder again to resume.", env="DARL_JUDGE_OUT"),
    judges: tuple[str, ...] = setting(
        (),
        "Judge to use: file, web, label-studio, llm, judgments, workbench or ubi; label two of one kind (llm:a, "
        "llm:b).  "
        "[default: file]",
        env="DARL_JUDGE",
        flag="--judge",
        metavar="NAME[:LABEL]",
    ),
    params: tuple[str, ...] = setting(
        (),
        "Parameter of a judge (listed in docs/judging.md).",
        env="DARL_JUDGE_SET",
        flag="--set",
        metavar="JUDGE.KEY=VALUE",
    ),
    web: bool = setting(
        False,
        "Serve the labelling page until it is stopped, then continue with the answers given.",
        env="DARL_JUDGE_WEB",
    ),
    port: int = setting(
        8766,
        "Port of the labelling page on 127.0.0.1; 0: any free port.",
        least=0,
        most=65_535,
        env="DARL_JUDGE_PORT",
    ),
    raters: tuple[str, ...] = setting(
        (),
        "Rater who must answer every task on the labelling page. The first is assumed when the URL has no ?rater=.  "
        "[default: anyone]",
        env="DARL_RATER",
        flag="--rater",
        metavar="NAME",
    ),
    answers: InputFile | None = setting(
        None, "Existing judgments, JSONL, used by the judge 'judgments'.", env="DARL_ANSWERS"
    ),
    gold: InputFile | None = setting(
        None, "Judgments with known grades, JSONL, for scoring the judges first.", env="DARL_GOLD"
    ),
    items: tuple[InputFile, ...] = setting(
        (),
        "Items, JSONL: texts of gold pairs, rendered by --bundle's template, and images of all pairs, in the field "
        "'image'.",
        env="DARL_ITEMS",
    ),
    bundle: InputFolder | None = setting(None, "Bundle whose grades and item template to use.", env="DARL_BUNDLE"),
    grades: str | None = setting(
        None, "Grade names, lowest first.  [default: the bundle's]", env="DARL_GRADES", metavar="NAME,NAME,..."
    ),
    guideline: InputFile | None = setting(
        None, "Markdown file that defines each grade, shown to people and LLMs.", env="DARL_GUIDELINE"
    ),
    trusted: tuple[str, ...] = setting(
        (),
        "Use this judge even if there is too little gold to score it; people and 'judgments' are always trusted.",
        env="DARL_TRUST",
        flag="--trust",
        metavar="JUDGE",
    ),
    dry_run: bool = setting(False, "Read all input and print pairs, calls and cost, without asking any judge."),
    as_json: bool = JSON,
    config: JudgeConfig = setting(..., "[judge]"),
) -> None:
    """Get selected pairs labelled by people or an LLM, or from existing judgments and clicks.

    TASKS are files written by darl select. Judges are scored on gold pairs first, and refused if they disagree with
    them (exit code 3). Writes judgments.jsonl, for darl train, and report.json.

    The API key of an LLM endpoint is read from DARL_JUDGE_KEY.
    """
    run = load("trainer.judging.run", "train")
    from trainer.judging.prepare import prepare_judging

    chosen = list(judges)
    given = _params(params)
    for name, wanted in (("web", web), ("judgments", answers is not None)):
        if wanted and name not in chosen:
            chosen.append(name)
    if answers is not None:
        given.setdefault("judgments", {})["path"] = str(answers.absolute())
    if raters:
        if "web" not in chosen:
            raise UsageError("--rater applies only to the labelling page", todo="pass --web, or --judge web")
        given.setdefault("web", {})["raters"] = ",".join(raters)
    names = tuple(chosen) or ("file",)
    config = dataclasses.replace(
        config, judges=names, trusted=trusted, params=_typed(given, names),
        guideline=str(guideline.absolute()) if guideline else "",
    )  # fmt: skip
    scale, texts, images = read_context(grades, bundle, items)
    where: dict[str, Any] = {"scale": scale, "out": out, "texts": texts, "images": images}
    if dry_run:
        estimates = run.estimate(prepare_judging(config, tasks, gold, **where), config)
        emit({"dry_run": True, "judges": estimates}, as_json=as_json, text=_estimate_lines(estimates))
        return
    if web:
        _serve(config, prepare_judging(config, tasks, gold, **where), port)
    with progress_line("reading", total=1) as line:
        report = run.judge(config, tasks, gold, **where, report=line.report)
    emit(report.to_json(), as_json=as_json, text=_summary(report.to_json()))


def _serve(config: Any, ready: Any, port: int) -> None:
    """Serve the page until it is stopped."""
    from darl_opensearch.web.serve import serve_page
    from trainer.judging.prepare import open_work
    from trainer.judging.web.images import Images
    from trainer.judging.web.page import Labelling, create_judging_app
    from trainer.judging.web.store import AnswerStore

    judge, _ = config.make("web")
    names, images = judge.names(), Images.of(judge.images, ready.job.base)
    pairs = ready.mix_in_gold(config.seed)
    for line in images.describe(pairs):
        note(line)
    open_work(ready, config)
    store = AnswerStore(ready.job.file("web", ".sqlite"))
    try:
        labelling = Labelling(pairs, ready.job.scale, ready.job.guideline, store, raters=names, images=images)

        def announce(url: str) -> None:
            note(f"label at {url}?rater={labelling.rater} (press Ctrl-C when done; answers are saved)")

        serve_page(create_judging_app(labelling), port, announce)
    finally:
        store.close()


def _params(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    given: dict[str, dict[str, str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        judge, dot, key = name.strip().rpartition(".")
        if not sign or not dot or not judge:
            raise UsageError(f"--set {text!r} is not JUDGE.KEY=VALUE", todo="write for example --set llm.model=small")
        given.setdefault(judge, {})[key] = value
    return given


def _typed(given: Mapping[str, Mapping[str, str]], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    from darl_opensearch.settings import nearest
    from trainer.judging import JUDGES

    for judge in given:
        if judge not in judges:
            raise UsageError(f"--set names {judge!r}, which is not one of the judges", todo=nearest(judge, judges))
    return {judge: JUDGES.read_texts(judge.partition(":")[0], texts) for judge, texts in given.items()}


def read_context(
    grades: str | None, bundle: Path | None, items: Sequence[Path]
) -> tuple[GradeScale, dict[str, str], dict[str, str]]:
    """Return the grades, and the items' texts and images by id."""
    from darl_opensearch.scores import GradeScale

    if bundle is None and items:
        raise UsageError("--items requires an item template", todo="pass --bundle")
    if bundle is None and not grades:
        raise UsageError("the grades are not known", todo="pass --bundle, or for example --grades no,yes")
    scale: GradeScale | None = None
    texts: dict[str, str] = {}
    images: dict[str, str] = {}
    if bundle is not None:
        from darl_opensearch.bundle import Bundle
        from darl_opensearch.records.items import describe_blank, read_items

        opened = Bundle.open(bundle)
        scale = opened.card.scale
        blank: Counter[str] = Counter()
        others = 0

        def keep_image(item_id: str, row: Mapping[str, Any]) -> None:
            nonlocal others
            image = row.get("image")
            if isinstance(image, str) and image.strip():
                images[item_id] = image.strip()
            others += image is not None and not isinstance(image, str)

        for path in items:
            read = read_items(path, opened.renderer, blank, keep_image)
            texts |= {item.item_id: item.text for item in read.values()}
        if others:
            note(f"warning: 'image' of {others:,} items is not text: they are shown without one")
        if blank:
            note(f"warning: {describe_blank(blank)}")
    if grades:
        names = tuple(name.strip() for name in grades.split(",") if name.strip())
        if scale is not None and len(names) != scale.k:
            raise UsageError(f"--grades has {len(names)} names, the bundle {scale.k} grades", todo="drop --grades")
        scale = GradeScale(names, scale.gains if scale is not None else tuple(map(float, range(len(names)))))
    if scale is None:
        raise UsageError("the grades are not known", todo="pass --grades")
    return scale, texts, images


def _estimate_lines(estimates: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for estimate in estimates:
        line = f"{estimate['judge']}: {estimate['pairs']:,} pairs"
        if "calls" in estimate:
            line += f", {estimate['calls']:,} calls ({estimate['cache_hits']:,} pairs are cached)"
            line += f", about {estimate['prompt_tokens']:,} tokens in, up to {estimate['completion_tokens']:,} out"
            line += f", about {estimate['cost']:,.4f} at the given prices" if estimate["cost"] is not None else ""
        lines.append(line)
    return "\n".join(lines)


def _summary(report: Mapping[str, Any]) -> str:
    lines = []
    for judge in report["judges"]:
        lines.append(f"{judge['judge']}: {_MARKS[judge['verdict']]} ({judge['why']})")
        lines.append(
            f"  {judge['graded']:,} of {report['tasks']:,} pairs graded, {judge['passed_over']:,} skipped, "
            f"{judge['unanswered']:,} unanswered"
        )
        counts = [f"{k.replace('_', ' ')}: {n:,}" for k, n in judge.get("counts", {}).items() if n and type(n) is int]
        lines += [f"  {', '.join(counts)}"] if counts else []
    for pair in report["agreement"]:
        kappa = pair["quadratic"]
        value = "not defined" if kappa["mean"] is None else f"{kappa['mean']:.2f}"
        value += "" if kappa["low"] is None else f" [{kappa['low']:.2f}, {kappa['high']:.2f}]"
        lines.append(f"{' and '.join(pair['judges'])}: quadratic kappa {value} on {pair['pairs']:,} pairs")
    lines += report["notes"]
    if not report["pending"]:
        lines.append(
            f"{report['labels']:,} pairs labelled, {report['unjudged']:,} not, {report['disagreements']:,} "
            f"disagreements: {report['files']['judgments.jsonl']}"
        )
    return "\n".join(lines)
