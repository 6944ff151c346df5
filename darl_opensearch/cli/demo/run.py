"""The demo, step by step."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo import backends, pages, report
from darl_opensearch.cli.demo.measure import CUTOFF, RouteRun, find_alarms, find_failures, measure_ood_shares
from darl_opensearch.cli.demo.sample import Sample, TestQuery, read_sample
from darl_opensearch.cli.demo.second_act import DemoBackend, SecondAct, play_second_act
from darl_opensearch.errors import load
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.node import node_possible
from darl_opensearch.node.manifest import DEFAULT_VERSION
from darl_opensearch.ood.record import PairRecord
from darl_opensearch.scoring import Scorer
from darl_opensearch.stats.ranking import dcg


@dataclass(frozen=True)
class DemoOptions:
    """Options of ``darl demo``.

    :param out: folder for run, bundle and logs.
    :param embedded: run without a node even if one could be started.
    """

    sample: Path
    out: Path
    embedded: bool = False
    keep: bool = False

    @property
    def states(self) -> Path:
        """Folder of the item states that all routes in Python and the scorer share."""
        return self.out / "states"


@dataclass
class _Clock:
    """Seconds per step, printed as they pass."""

    say: Callable[[str], object]
    seconds: dict[str, float]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self.say(f"  {name}: {self.seconds[name]:.0f} s")


def run_demo(options: DemoOptions, say: Callable[[str], object], update: Callable[[str, int, int], object]) -> Any:
    """Run the whole loop once.

    :param update: shows progress: step, done, total.
    :return: figures, tables and failures.
    """
    possible = node_possible()
    embedded = options.embedded or not possible
    if embedded:
        why = "asked for" if options.embedded else possible.reason
        say(f"Embedded default: SQLite BM25 as the first stage, the SQLite spool as the OOD store ({why}).")
    else:
        say(f"A real OpenSearch {DEFAULT_VERSION} node with ML Commons ({possible.reason}).")
    # Looking whether something is there answers 404; a library that sets up logging would print each.
    logging.getLogger("opensearch").setLevel(logging.ERROR)
    clock = _Clock(say, {})
    since, started = datetime.now(UTC), time.perf_counter()
    shutil.rmtree(options.out / "ood", ignore_errors=True)
    (options.out / "ood").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        url = None
        if not embedded:
            # Before the training and not beside it: on two cores each would slow the other down.
            with clock.step("node"):
                update("starting the node", 0, 1)
                url = stack.enter_context(backends.run_node(keep=options.keep))
        bundle = make_bundle(options, clock, update)
        sample = read_sample(options.sample, bundle)
        runs, pairs = _search(options, url, bundle, sample, clock, update)
        with clock.step("second act"):
            second = _second_act(options, url, bundle, sample, runs, update, say)
        page = pages.write_monitor(options.out, bundle, url, since)
    places = pages.list_places(
        options.out, options.out / "bundle", second.bundle.path, sample.item_files, page, options.states,
        node=options.keep and not embedded,
    )  # fmt: skip
    clock.seconds["in all"] = round(time.perf_counter() - started, 1)
    result = _result(bundle, sample, runs, pairs, second, clock.seconds, embedded=embedded)
    return dataclasses.replace(result, places=tuple(places))


def make_bundle(options: DemoOptions, clock: _Clock, update: Callable[[str, int, int], object]) -> Bundle:
    """Train and export."""
    plan = load("trainer.stages.plan", "train")
    config_module = load("trainer.config", "train")
    exporter = load("trainer.export", "train")
    config = config_module.read_config(options.sample / "darl.toml")
    with clock.step("train"):
        trained = plan.train(config, options.sample, options.out / "run", fresh=True, report=update)
        load("trainer.report", "train").write_report(options.out / "run")
    with clock.step("export"):
        bundle: Bundle = exporter.export_run(
            trained, options.sample, options.out / "bundle", report=lambda what: update(what, 0, 1)
        )
    return bundle


def _search(
    options: DemoOptions,
    url: str | None,
    bundle: Bundle,
    sample: Sample,
    clock: _Clock,
    update: Callable[[str, int, int], object],
) -> tuple[list[RouteRun], list[PairRecord]]:
    done, total = 0, len(sample.queries)
    total += 0 if url is None else total + len(backends.choose_local(sample.queries))

    def advance() -> None:
        nonlocal done
        done += 1
        update("searching", done, total)

    folder = options.out / "ood"
    if url is None:
        with clock.step("search"):
            return backends.search_embedded(bundle, sample, folder / "spool.sqlite", options.states, advance)
    key = secrets.token_urlsafe(16)
    with (
        backends.run_scorer(
            bundle, folder / "scorer.sqlite", options.states, url, key, folder / "scorer.log"
        ) as scorer_url,
        clock.step("index, register, search"),
    ):
        return backends.search_cluster(
            bundle, sample, url, scorer_url, key, folder / "python.sqlite", options.states, advance,
            lambda what: update(what, 0, 1),
        )  # fmt: skip


def _second_act(
    options: DemoOptions, url: str | None, bundle: Bundle, sample: Sample, runs: Sequence[RouteRun],
    update: Callable[[str, int, int], object], say: Callable[[str], object],
) -> SecondAct:  # fmt: skip
    folder = options.out / "later"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    by_name = {run.name: run for run in runs}
    python = by_name[backends.PYTHON]
    place = DemoBackend(bundle, sample, folder, url, options.states)
    earlier = (python, by_name.get(backends.LOCAL, python))
    return play_second_act(place, options.sample / "darl.toml", update, say, earlier=earlier)


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    :param failures: one clause each.
    :param places: where to look next: what is there, and its URL, file or command.
    """

    tables: tuple[Any, ...]
    figures: dict[str, Any]
    failures: tuple[str, ...]
    places: tuple[tuple[str, str], ...] = ()


def _result(
    bundle: Bundle,
    sample: Sample,
    runs: list[RouteRun],
    pairs: list[PairRecord],
    second: SecondAct,
    seconds: dict[str, float],
    *,
    embedded: bool,
) -> DemoResult:
    alpha, gains = bundle.card.ood.alpha, bundle.card.scale.gains
    quality, by_slice = report.lay_out_quality(runs, sample, gains)
    shares = measure_ood_shares(pairs, sample)
    with Scorer.open(bundle) as scorer:
        examples = [
            _example(query, runs, sample, bundle, scorer) for query in choose_examples(runs, sample, pairs, gains)
        ]
    scored = len(pairs) if embedded else _scored(runs, sample, pairs)
    compared = by_slice["all kinds"] | {
        run.name: by_slice[report.SERVED][run.name] for run in runs if run.name == backends.LOCAL
    }
    broken = find_failures(runs[1:], runs[0].name, compared, len(pairs), scored)
    broken += find_alarms(shares, alpha)
    second_table, second_figures = report.lay_out_second_act(second, runs[0], sample, gains)
    broken += find_second_act_failures(second)
    figures = {
        "embedded": embedded,
        "model": {"name": bundle.card.name, "version": bundle.card.version, "sha256": bundle.identity},
        "quality": by_slice,
        "latency": {run.name: run.latency() for run in runs},
        "not_reranked": {run.name: len(run.not_reranked) for run in runs[1:]},
        "ood_shares": {
            f"{'seen' if query else 'new'} queries × {'seen' if item else 'new'} kinds": share.to_json()
            for (query, item), share in sorted(shares.items(), reverse=True)
        },
        "pairs_logged": len(pairs),
        "second_act": {
            "outcome": second.outcome,
            "said": second.reason,
            "quality": second_figures,
            "gate": {key: value for key, value in second.cycle["gate"].items() if key != "settings"},
            "pairs": second.cycle["train"]["pairs"],
            "rolled_back": second.rolled_back,
        },
        "seconds": seconds,
        "failures": list(broken),
    }
    tables = (
        quality, report.lay_out_ood(shares, alpha), report.lay_out_latency(runs), *examples,
        report.lay_out_cycle(second), second_table,
    )  # fmt: skip
    return DemoResult(tables, figures, tuple(broken))


def find_second_act_failures(second: SecondAct) -> list[str]:
    """List what makes the demo fail in the second act; a refusal by the gate does not."""
    runs = (second.before, second.after, *second.served)
    problems = list(dict.fromkeys(
        f"{run.name}: {len(run.not_reranked)} searches came back not reranked" for run in runs if run.not_reranked
    ))  # fmt: skip
    return problems if second.rolled_back else [*problems, "after the rollback version 1 does not answer as before"]


def _scored(runs: list[RouteRun], sample: Sample, pairs: list[PairRecord]) -> int:
    """Count the pairs that the logging route must have scored: the positions of a request are contiguous from 0."""
    last: dict[str, int] = {}
    for pair in pairs:
        last[pair.request_id] = max(last.get(pair.request_id, -1), pair.position)
    answered = {query_id for query_id, ids in runs[0].ranked.items() if ids}
    missing = len(answered - {pair.query_id for pair in pairs})
    return sum(position + 1 for position in last.values()) + missing


def choose_examples(
    runs: list[RouteRun], sample: Sample, pairs: list[PairRecord], gains: Sequence[float]
) -> list[TestQuery]:
    """Choose a seen query whose ranking improved, and a new one with the most OOD pairs."""

    def gain(query: TestQuery) -> float:
        orders = (runs[-1].ranked[query.query_id], runs[0].ranked[query.query_id])
        after, before = (dcg([gains[sample.grades.get((query.query_id, i), 0)] for i in ids], CUTOFF) for ids in orders)
        return after - before

    ood_pairs: dict[str, int] = {}
    for pair in pairs:
        if pair.query_id:
            ood_pairs[pair.query_id] = ood_pairs.get(pair.query_id, 0) + pair.is_ood
    seen = [query for query in sample.queries if query.seen]
    new = [query for query in sample.queries if not query.seen]
    return [max(seen, key=gain), max(new, key=lambda query: ood_pairs.get(query.query_id, 0))]


def _example(query: TestQuery, runs: list[RouteRun], sample: Sample, bundle: Bundle, scorer: Scorer) -> Any:
    names = {
        str(row["id"]): str(row["name"]) for path in sample.item_files for _, row in read_jsonl(path)
    }  # fmt: skip
    top = runs[-1].ranked[query.query_id][:5]
    scores = scorer.score(query.query, [sample.texts[item_id] for item_id in top])
    after = [(item_id, scores, row) for row, item_id in enumerate(top)]
    return report.lay_out_example(query, runs[0].ranked[query.query_id], after, names, bundle.card.scale)
