"""Selection: from the OOD log to two files of pairs to label, one for training and one for testing.

1. The log is gathered by query. Automated requests, labelled queries and near-duplicates are dropped.
2. The control arm is sampled from the remaining queries by traffic, before anything depends on OOD scores.
3. The flagged queries among the others get items and features.
4. Noise is dropped; the selector chooses until the budget is spent.

The work folder inside ``out`` keeps the gathered log and the embeddings, so that a killed run resumes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import UsageError
from darl_opensearch.io.digest import digest_data, name_text
from darl_opensearch.io.writing import write_rows
from darl_opensearch.ood.record import format_timestamp
from darl_opensearch.ood.store import OodStore
from darl_opensearch.scores import Scores
from darl_opensearch.scoring import Scorer
from darl_opensearch.scoring.embed import Embedder
from trainer.dasa import report as why
from trainer.dasa.config import SelectConfig
from trainer.dasa.control import draw_by_traffic, keep_share, read_control
from trainer.dasa.embedded import CHUNK, LEAST_ITEMS, Embedded, Report, embed_candidates, embed_known
from trainer.dasa.features import TWO_HALVES, Embed, Request, average_pairs
from trainer.dasa.items import NO_ITEMS, Items
from trainer.dasa.labelled import LabelledQueries
from trainer.dasa.lists import Lister, Score
from trainer.dasa.map import CANDIDATE, CHOSEN, TRAINING, Mapped, map_queries
from trainer.dasa.mix import Listed, spread_items
from trainer.dasa.near import find_representatives, mark_near
from trainer.dasa.noise import is_gibberish, mark_isolated
from trainer.dasa.registry import Candidates, Floats
from trainer.dasa.report import SelectReport
from trainer.dasa.selectors import SELECTORS
from trainer.dasa.work import GatheredLog, Queries
from trainer.judging.tasks import task_id

SELECTED_FILE, CONTROL_FILE, KEPT_FILE, REPORT_FILE = "selected.jsonl", "control.jsonl", "kept.jsonl", "report.json"
MAP_FILE = "map.json"
WORK = "work"


def select(
    config: SelectConfig,
    bundle: Bundle,
    store: OodStore,
    *,
    labelled: LabelledQueries,
    out: Path,
    items: Items = NO_ITEMS,
    since: datetime | None = None,
    until: datetime | None = None,
    control: Sequence[Path] = (),
    embed: Embed | None = None,
    dry_run: bool = False,
    report: Report = lambda what, done, total: None,
) -> SelectReport:
    """Choose what to label next.

    Writes ``selected.jsonl`` and ``control.jsonl``, pairs to label; ``kept.jsonl``, pairs labelled for the previous
    control arm that stay in it; ``map.json``, where the selected queries lie among those trained on; and finally
    ``report.json``. If that exists for the same bundle, settings and judgments, it is returned and nothing is done.

    :param bundle: the serving model, for features, and for scores that the log lacks.
    :param items: the catalogue. Without a search the control arm has only logged items: the OOD ones and few others.
    :param until: latest time read, excluded; by default now. A resumed run keeps its original times.
    :param control: ``control.jsonl`` and ``kept.jsonl`` of the previous cycle. Queries that stay in the arm do not
        count towards coverage, even if ``labelled`` lists them as trained; those that leave it are trained on now.
    :param embed: features of pairs; by default by the bundle's ``features.onnx``.
    :param dry_run: count the candidates only, and write nothing.
    :param report: called with the step, steps done and steps in all (0: unknown).
    :return: the report, also of an empty selection.
    :raises DarlError: if the log, the catalogue or a file cannot be read.
    :raises UsageError: if the folder holds another selection.
    """
    former_control = read_control(control)
    kept_control = keep_share(former_control, config.control_keep, config.seed)
    labelled = labelled.without(kept_control)  # not trained on, so they do not count towards coverage
    digest = _digest(config, bundle, store, labelled, former_control)
    if (done := out / REPORT_FILE).is_file() and not dry_run:
        before = SelectReport.read(done)
        if before.digest != digest:
            raise UsageError(
                "the folder holds a selection with another model, settings or judgments",
                where=str(out),
                todo="choose another folder, or remove it",
            )
        return before
    with contextlib.ExitStack() as open_:
        folder = Path(open_.enter_context(TemporaryDirectory())) if dry_run else out / WORK
        work = open_.enter_context(GatheredLog(folder / "log.db", digest))
        log = _gather(work, store, since, until, bundle, config, report)
        queries = work.queries()
        log |= work.counts() | {"queries": len(queries)}
        arms = _divide(config, queries, labelled.judged, former_control, kept_control, report)
        if dry_run:
            return SelectReport(
                log, _in_order(arms.dropped), len(arms.candidates), {"queries": 0, "pairs": 0, "slices": {}},
                _figures(arms, items), _named(config), digest, True,
            )  # fmt: skip
        models = _Models(bundle, embed, open_)
        lister = Lister(work, items, models.score, config.depth, config.items_per_query)
        tasks = _Tasks(work, queries, arms.traffic)
        control_tasks, figures = _control(lister, tasks, arms, config, report)
        known_features = embed_known(work, folder / "known.npy", labelled.trained, models.features, report)
        embedded = embed_candidates(work, folder, lister, models.features, queries, arms.candidates, config, report)
        report("filtering noise", 0, 0)
        pool = _clean(config, embedded, queries, known_features, folder, arms.dropped)
        report("selecting", 0, 0)
        chosen = _choose(config, pool, queries, arms.traffic, known_features)
        mapped = map_queries(_kinds(pool, chosen, known_features, labelled, tasks), seed=config.seed)
        selected = [task for place in chosen for task in tasks.selected(place)]
        slices = dict(sorted(Counter(task["slice"] for task in selected).items()))
        result = SelectReport(
            log, _in_order(arms.dropped), len(pool.rows),
            {"queries": len(chosen), "pairs": len(selected), "slices": slices},
            _figures(arms, items) | figures, _named(config), digest,
        )  # fmt: skip
        write_rows(out / SELECTED_FILE, selected, fixed_name=True)
        write_rows(out / CONTROL_FILE, control_tasks, fixed_name=True)
        write_rows(out / KEPT_FILE, (task for key in arms.kept for task in former_control[key]), fixed_name=True)
        write_rows(out / MAP_FILE, [mapped], fixed_name=True)
        write_rows(out / REPORT_FILE, [result.to_json()], fixed_name=True)
    shutil.rmtree(folder)
    return result


@dataclasses.dataclass(frozen=True)
class _Arms:
    """Rows of the queries that may be selected and of the control arm, and the arm's earlier queries."""

    candidates: list[int]
    control: list[int]
    kept: list[str]
    traffic: NDArray[np.float64]
    dropped: Counter[str]


def _gather(
    work: GatheredLog, store: OodStore, since: datetime | None, until: datetime | None, bundle: Bundle,
    config: SelectConfig, report: Report,
) -> dict[str, Any]:  # fmt: skip
    if (times := work.mark("times")) is None:
        times = json.dumps([since.isoformat() if since else None, (until or datetime.now(UTC)).isoformat()])
        work.set_mark("times", times)
        work.commit()
    first, last = (datetime.fromisoformat(time) if time else None for time in json.loads(times))
    work.gather(
        store, since=first, until=last, model=(bundle.card.name, bundle.card.version), depth=config.depth,
        machine_ids=config.machine_ids, report=report,
    )  # fmt: skip
    return {
        "where": store.where,
        "since": format_timestamp(first) if first else None,
        "until": format_timestamp(last) if last else None,
    }


def _divide(
    config: SelectConfig, queries: Queries, judged: frozenset[str], former: Collection[str], kept: list[str],
    report: Report,
) -> _Arms:  # fmt: skip
    keys, dropped = queries.keys, Counter[str]()
    remaining = np.ones(len(queries), dtype=np.bool_)

    def drop(reason: str, which: NDArray[np.bool_]) -> None:
        dropped[reason] += int((remaining & which).sum())
        remaining[which] = False

    def test_remaining(test: Callable[[list[str]], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        rows, matches = np.flatnonzero(remaining), np.zeros(len(queries), dtype=np.bool_)
        matches[rows] = test([keys[row] for row in rows])
        return matches

    near_to = functools.partial(mark_near, threshold=config.near_threshold)
    drop(why.MACHINE, queries.even | (queries.per_minute > config.machine_per_minute))
    drop(why.JUDGED, np.array([key in judged or key in former for key in keys], dtype=np.bool_))
    report("finding near-duplicates", 0, 0)
    drop(why.NEAR_JUDGED, test_remaining(lambda some: near_to(some, {*judged, *former})))
    representatives = find_representatives(
        keys, queries.requests, np.flatnonzero(remaining).tolist(), threshold=config.near_threshold,
        near_rows=config.near_rows,
    )  # fmt: skip
    traffic = queries.requests.astype(np.float64)
    for row, other in representatives.items():
        traffic[other] += queries.requests[row]
    remaining[list(representatives)] = False
    dropped[why.NEAR] = len(representatives)

    # The control arm is sampled before any query is dropped for its form or its OOD scores.
    rows = np.flatnonzero(remaining)
    count = max(config.control_queries - len(kept), 0)
    drawn_places = draw_by_traffic([keys[row] for row in rows], traffic[rows], count, config.seed)
    control = [int(rows[row]) for row in drawn_places]
    remaining[control] = False
    dropped[why.CONTROL] = len(control)

    drop(why.NEAR_CONTROL, test_remaining(lambda some: near_to(some, [keys[row] for row in control])))
    drop(why.GIBBERISH, test_remaining(lambda some: np.array([is_gibberish(key) for key in some], dtype=np.bool_)))
    if not config.make()[1]:
        drop(why.NOT_FLAGGED, queries.ood_share < config.flagged_share)  # NaN stays: unknown until scored
    return _Arms([int(row) for row in np.flatnonzero(remaining)], control, kept, traffic, dropped)


class _Models:
    """The bundle's graphs, opened when they are first needed."""

    def __init__(self, bundle: Bundle, embed: Embed | None, open_: contextlib.ExitStack) -> None:
        self._bundle, self._embed, self._open = bundle, embed, open_
        self._score: Score | None = None

    def features(self, requests: Sequence[Request]) -> Floats:
        if self._embed is None:
            self._embed = self._open.enter_context(Embedder(self._bundle)).embed
        halves = 2 if self._bundle.card.backbone in TWO_HALVES else 1
        return average_pairs(self._embed(requests), [len(texts) for _, texts in requests], halves)

    def score(self, requests: Sequence[Request]) -> Sequence[Scores]:
        if self._score is None:
            self._score = self._open.enter_context(Scorer.open(self._bundle)).score_many
        return self._score(requests)


class _Tasks:
    """Lines of a task file."""

    def __init__(self, work: GatheredLog, queries: Queries, traffic: NDArray[np.float64]) -> None:
        self.queries = queries
        self._work, self._traffic = work, traffic

    def selected(self, place: int) -> list[dict[str, Any]]:
        number, listed = self._work.candidate(place)
        return self.lines(int(self.queries.rows(number)), listed, "selected")

    def query(self, row: int) -> str:
        return self._work.text(int(self.queries.ids[row]))

    def lines(self, row: int, listed: Sequence[Listed], arm: str) -> list[dict[str, Any]]:
        number, query = int(self.queries.ids[row]), self.query(row)
        query_id = self._work.query_ids([number]).get(number) or name_text("log", self.queries.keys[row])
        return [
            {
                "task": task_id(query, item.item_id), "query_id": query_id, "query": query, "item_id": item.item_id,
                "text": item.text, "slice": self.queries.slices[row], "arm": arm, "score": item.score,
                "grade_probs": list(item.grade_probs), "ood_score": item.ood_score, "ood_distance": item.ood_distance,
                "traffic": int(self._traffic[row]), "records": list(item.records),
            }
            for item in listed
        ]  # fmt: skip


def _control(
    lister: Lister, tasks: _Tasks, arms: _Arms, config: SelectConfig, report: Report
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    lines: list[dict[str, Any]] = []
    unusable = 0
    count = len(arms.control)
    for start in range(0, count, CHUNK):
        part = arms.control[start : start + CHUNK]
        lists = lister([int(tasks.queries.ids[row]) for row in part], search=True)
        for row, listed in zip(part, lists, strict=True):
            if len(listed) < LEAST_ITEMS:
                unusable += 1  # not replaced: that would favour queries with items
            else:
                lines += tasks.lines(row, spread_items(listed, config.control_items), "control")
        report("retrieving the control arm", min(start + CHUNK, count), count)
    return lines, {"queries": count - unusable, "pairs": len(lines), "unusable": unusable}


def _clean(
    config: SelectConfig, embedded: Embedded, queries: Queries, known: Floats, folder: Path, dropped: Counter[str]
) -> Embedded:
    dropped[why.FEW_ITEMS] = embedded.few
    flagged = embedded
    if not config.make()[1]:
        flagged = embedded.keep(embedded.flagged, folder / "flagged.f32")
        dropped[why.NOT_FLAGGED] += int((~embedded.flagged).sum())
    rare = queries.requests[flagged.rows] < config.noise_requests
    noise = mark_isolated(flagged.features, known, config.noise) & rare
    dropped[why.NOISE] = int(noise.sum())
    return flagged.keep(~noise, folder / "pool.f32")


def _choose(
    config: SelectConfig, pool: Embedded, queries: Queries, traffic: NDArray[np.float64], known: Floats
) -> list[int]:
    slices = tuple(queries.slices[row] for row in pool.rows)
    cap = int(config.slice_cap * config.budget)
    caps = {name: cap for name in set(slices) if name} if config.slice_cap < 1.0 else {}
    candidates = Candidates(pool.features, pool.cost, traffic[pool.rows], pool.flagged, slices, caps)
    selector, _ = config.make()
    chosen = selector(candidates, known, config.budget, np.random.default_rng([config.seed, 1]))
    return [int(pool.places[row]) for row in chosen]


def _kinds(
    pool: Embedded, chosen: Sequence[int], known: Floats, labelled: LabelledQueries, tasks: _Tasks
) -> dict[str, Mapped]:
    """Tell apart the queries of the map; a candidate that was selected is not counted among the others."""
    selected = np.isin(pool.places, chosen)

    def query(row: int) -> str:
        return tasks.query(int(pool.rows[row]))

    return {
        TRAINING: Mapped(known, np.arange(len(known)), lambda row: labelled.trained[row][0]),
        CANDIDATE: Mapped(pool.features, np.flatnonzero(~selected), query),
        CHOSEN: Mapped(pool.features, np.flatnonzero(selected), query),
    }


def _figures(arms: _Arms, items: Items) -> dict[str, Any]:
    return {
        "queries": 0, "pairs": 0, "drawn": len(arms.control), "kept": len(arms.kept), "unusable": 0,
        "from": "search" if items.search else "log",
    }  # fmt: skip


def _named(config: SelectConfig) -> dict[str, Any]:
    return {"name": config.selector, "params": SELECTORS.resolve(config.selector, config.params)[1]}


def _in_order(dropped: Mapping[str, int]) -> dict[str, int]:
    return {reason: dropped.get(reason, 0) for reason in why.DROPPED}


def _digest(
    config: SelectConfig,
    bundle: Bundle,
    store: OodStore,
    labelled: LabelledQueries,
    former: Mapping[str, Sequence[Any]],
) -> str:
    parts = [
        json.dumps(dataclasses.asdict(config), sort_keys=True), bundle.identity, store.where,
        json.dumps(sorted(labelled.judged)), json.dumps(labelled.trained), json.dumps(sorted(former)),
    ]  # fmt: skip
    return digest_data("\0".join(parts))
