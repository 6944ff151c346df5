"""The figures of the monitor's page, from a spool's roll-ups: windows over time, and one window looked into."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from darl_opensearch.monitor.drift.config import DriftConfig, parse_window
from darl_opensearch.monitor.drift.report import ALL, DRIFT, INCOMPLETE, NO_DRIFT, SHARE, TOO_FEW, DriftTest
from darl_opensearch.monitor.drift.run import adjust
from darl_opensearch.monitor.nearest import Nearest, Why
from darl_opensearch.monitor.themes import MOST_QUERIES, Asked, Theme, find_themes
from darl_opensearch.ood.record import format_timestamp
from darl_opensearch.ood.rollup import Rollup, Tally
from darl_opensearch.ood.rows import DAY_MS, HOUR_MS, Total, TrafficLine
from darl_opensearch.stats.shares import Share

FLAGGED_SHARE = 0.25  # [select] flagged_share, unless it is set
MOST_DRIFTED = 10  # windows that a file carries beside the one that it opens at
HOURLY = 3 * DAY_MS  # up to this long a period is cut into hours, else into days


@dataclass(frozen=True)
class Filters:
    """What to look at.

    :param since: earliest time, or None for all.
    :param until: latest time, excluded; None: now.
    :param model: ``name version``, or None for all.
    :param slice: a traffic slice, ``""`` for requests without one, or None for all traffic.
    :param window: a time in the window to look into; None: the one with the highest drift.
    :param top: queries and items to list.
    """

    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    slice: str | None = None
    window: datetime | None = None
    top: int = 10


@dataclass(frozen=True)
class SliceFigures:
    """One slice in one window, each query counted once."""

    name: str
    requests: int
    queries: int
    share_ood: Share


@dataclass(frozen=True)
class WindowFigures:
    """One window of one model version.

    :param alpha: expected share of OOD pairs.
    :param not_reranked: searches that returned first-stage order instead.
    :param share_ood: share of OOD pairs, each query counted once.
    :param latency_ms: median and 95th percentile; None if nothing was reranked.
    :param grades: estimated share of pairs by grade, from grade 0.
    :param slices: by share OOD, highest first.
    :param tests: share OOD against alpha, of all traffic and of the larger slices, adjusted together.
    :param verdict: ``drift``, ``no drift``, ``too few queries`` or ``incomplete``.
    """

    model: str
    version: str
    alpha: float
    start: datetime
    end: datetime
    requests: int
    not_reranked: int
    queries: int
    pairs: int
    share_ood: Share
    latency_ms: tuple[float, float] | None
    grades: tuple[float, ...]
    slices: tuple[SliceFigures, ...]
    tests: tuple[DriftTest, ...]
    verdict: str

    @property
    def name(self) -> str:
        """The model version."""
        return f"{self.model} {self.version}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The tests that detected drift, most significant first."""
        return tuple(str(t) for t in sorted((t for t in self.tests if t.drift), key=lambda t: (t.p_holm, t.p)))

    def holds(self, time: datetime | None) -> bool:
        """Whether a time is in this window."""
        return time is not None and self.start <= time < self.end

    @property
    def excess(self) -> float:
        """Share OOD beyond alpha."""
        return (self.share_ood.value or 0.0) - self.alpha


@dataclass(frozen=True)
class Strange:
    """A query or an item with OOD pairs.

    :param text: of the query or the item; None: an item that was logged without its text.
    :param item_id: of an item, if it was logged.
    :param count: requests of a query; pairs of an item, estimated.
    :param ood_distance: the highest.
    :param why: what the training data has of it; None without training texts, or without its own.
    """

    text: str | None
    item_id: str | None
    count: float
    share_ood: float
    ood_distance: float | None
    why: Why | None = None


@dataclass(frozen=True)
class Flagged:
    """The queries among which ``darl select`` chooses, before it drops duplicates, judged queries, machines and noise.

    :param queries: those with at least ``share`` of their pairs OOD, on average over their searches.
    :param searches: for them.
    :param share: the default of ``[select] flagged_share``.
    """

    queries: int
    searches: int
    share: float = FLAGGED_SHARE


@dataclass(frozen=True)
class Focus:
    """One window, looked into.

    :param queries: by share OOD, then distance, highest first.
    :param items: by OOD pairs, then distance, highest first.
    :param themes: of its OOD queries, largest first.
    """

    window: WindowFigures
    queries: tuple[Strange, ...]
    items: tuple[Strange, ...]
    themes: tuple[Theme, ...]
    flagged: Flagged


@dataclass(frozen=True)
class ReleaseMark:
    """An event of a pipeline's release history.

    :param event: ``release``, ``rollback`` or ``refused``.
    :param version: ``name version``: that serves from then on, or was refused.
    :param gate: whether it passed ``darl gate``; None: there is no report.
    :param note: the reason that was given.
    """

    time: datetime
    event: str
    version: str
    gate: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class LogSource:
    """How a command reads the same records.

    :param records: options: ``--spool FILE``, or ``--url URL`` and more.
    :param bundle: its folder; None if it was not given.
    :param more: further options of ``darl monitor``.
    """

    records: Sequence[str] = ("--spool", "SPOOL")
    bundle: str | None = None
    more: Sequence[str] = ()

    @property
    def select(self) -> tuple[str, ...]:
        """Arguments of ``darl select``."""
        return self.bundle or "BUNDLE", *self.records

    @property
    def monitor(self) -> tuple[str, ...]:
        """Arguments of ``darl monitor``."""
        return *self.records, *(("--bundle", self.bundle) if self.bundle else ()), *self.more


SOME_LOG = LogSource()


@dataclass(frozen=True)
class Overview:
    """A period of the log.

    :param span_s: length of a window in seconds.
    :param first: time of the log's first request, whatever the filters; None: there is none.
    :param windows: by start, then by model version.
    :param models: ``name version`` of all in the period, in order of their first request.
    :param slices: of all traffic in the period.
    :param one_in: windows without drift per false alarm.
    :param counters: the spool's.
    :param releases: of the period, by time; none without a cluster.
    :param releases_unread: why the release history could not be read, if it could not.
    """

    store: str
    filters: Filters
    since: datetime | None
    until: datetime
    first: datetime | None
    span_s: int
    windows: tuple[WindowFigures, ...]
    focus: Focus | None
    models: tuple[str, ...]
    slices: tuple[str, ...]
    one_in: int
    counters: Mapping[str, int] = field(default_factory=dict)
    releases: tuple[ReleaseMark, ...] = ()
    releases_unread: str = ""

    @property
    def latest(self) -> WindowFigures | None:
        """The last tested window of the version that was seen last."""
        if not self.windows:
            return None
        newest = self.windows[-1].name
        return next((w for w in reversed(self.windows) if w.name == newest and w.tests), None)

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        values: dict[str, Any] = _jsonable(dataclasses.asdict(self))
        values.pop("counters")
        for window, rendered in zip(self.windows, values["windows"], strict=True):
            rendered["reasons"] = list(window.reasons)
        return values | {"latest": format_timestamp(self.latest.start) if self.latest else None}


def list_views(found: Overview) -> Iterator[Filters]:
    """List what a reader may look at next, of what is there and not filtered already: the most useful first.

    Windows that drifted and the latest one, then slices by traffic, then versions, then a version's slices.
    """
    chosen = found.filters
    if chosen.window is None and found.focus is not None:
        drifted = [w.start for w in reversed(found.windows) if w.verdict == DRIFT][:MOST_DRIFTED]
        starts = dict.fromkeys([*drifted, found.windows[-1].start])
        starts.pop(found.focus.window.start, None)
        yield from (dataclasses.replace(chosen, window=start) for start in starts)
    searches = Counter[str]()
    for window in found.windows:
        searches.update({part.name: part.requests for part in window.slices})
    slices = [name for name, _ in searches.most_common()] if len(searches) > 1 and chosen.slice is None else []
    models = found.models if len(found.models) > 1 and chosen.model is None else ()
    yield from (dataclasses.replace(chosen, slice=name) for name in slices)
    yield from (dataclasses.replace(chosen, model=model) for model in models)
    yield from (dataclasses.replace(chosen, model=model, slice=name) for model in models for name in slices)


def overview(
    rollup: Rollup, filters: Filters, config: DriftConfig | None = None, *, store: str,
    counters: Mapping[str, int] | None = None, nearest: Nearest | None = None,
) -> Overview:  # fmt: skip
    """Read the figures; nothing is added up here but windows.

    :param rollup: up to date, see :meth:`Rollup.update`.
    :param config: of the drift tests; a window that is a span is used, else hours or days are, by the period's length.
    :param store: its name, for messages.
    :param nearest: training texts, to say why a text is strange.
    """
    config = config or DriftConfig()
    until = filters.until or datetime.now(UTC)
    ends = rollup.span_ms()
    empty = Overview(
        store, filters, filters.since, until, _time(ends[0]) if ends else None, 0, (), None, (), (), config.one_in,
        dict(counters or {}),
    )  # fmt: skip
    if ends is None:
        return empty
    first = max(ends[0], _ms(filters.since) if filters.since else ends[0])
    last = min(ends[1] + 1, _ms(until))
    if first >= last:
        return empty
    chosen = parse_window(config.window)
    length = last - first
    unit = chosen // timedelta(milliseconds=1) if isinstance(chosen, timedelta) else (
        HOUR_MS if length <= HOURLY else DAY_MS
    )  # fmt: skip
    bounds = first // unit * unit, -(-last // unit) * unit
    within = max(bounds[0], _ms(filters.since) if filters.since else bounds[0]), min(bounds[1], _ms(until))
    # The totals of a day that is not over serve, too: nothing is later than the last record.
    aligned = (within[0], bounds[1] if within[1] > ends[1] else within[1])
    whole, parts = (rollup.totals(unit, *aligned, slices=slices) for slices in (False, True))
    windows = _windows(whole, parts, filters, config, unit, within, _ms(until))
    focus = _focus(rollup, [*whole, *parts], windows, filters, unit, nearest)
    return dataclasses.replace(
        empty, since=_time(first), span_s=unit // 1000, windows=tuple(windows), focus=focus,
        models=tuple(dict.fromkeys(f"{t.line.model} {t.line.version}" for t in whole)),
        slices=tuple(sorted({t.line.slice or "" for t in parts})),
    )  # fmt: skip


def _windows(
    whole: Sequence[Total], parts: Sequence[Total], filters: Filters, config: DriftConfig, unit: int,
    within: tuple[int, int], until_ms: int,
) -> list[WindowFigures]:  # fmt: skip
    """Make the windows of the chosen lines."""
    by_key: dict[tuple[int, str, str, float], list[Total]] = {}
    for part in parts:
        by_key.setdefault(_window_key(part), []).append(part)
    found = []
    for total in whole if filters.slice is None else [t for t in parts if t.line.slice == filters.slice]:
        if filters.model not in (None, f"{total.line.model} {total.line.version}"):
            continue
        slices = by_key.get(_window_key(total), []) if filters.slice is None else []
        complete = total.start_ms >= within[0] and total.start_ms + unit <= until_ms
        found.append(_window(total, slices, config, unit, complete))
    return sorted(found, key=lambda window: (window.start, window.name, window.alpha))


def _window(total: Total, slices: Sequence[Total], config: DriftConfig, unit: int, complete: bool) -> WindowFigures:
    tests: list[DriftTest] = []
    if not complete:
        verdict = INCOMPLETE
    elif total.sums.clusters < config.min_queries:
        verdict = TOO_FEW
    else:
        large = [s for s in slices if s.line.slice and s.queries >= config.min_queries] if len(slices) > 1 else []
        large.sort(key=lambda s: (-s.queries, s.line.slice))
        tests = [_test(ALL, total), *(_test(s.line.slice, s) for s in large[: config.max_slices])]
        tests = adjust(tests, 1 / config.one_in)
        verdict = DRIFT if any(test.drift for test in tests) else NO_DRIFT
    grades = dict(total.grades)
    pairs = sum(grades.values())
    rows = [SliceFigures(s.line.slice or "", s.requests, s.queries, s.sums.share()) for s in slices if s.requests]
    rows.sort(key=lambda row: (-(row.share_ood.value or 0.0), row.name))
    return WindowFigures(
        total.line.model, total.line.version, total.line.alpha, _time(total.start_ms), _time(total.start_ms + unit),
        total.requests, total.not_reranked, total.queries, total.pairs, total.sums.share(),
        None if total.p50 is None or total.p95 is None else (total.p50, total.p95),
        tuple(grades.get(grade, 0.0) / pairs for grade in range(max(grades) + 1)) if pairs else (),
        tuple(rows), tuple(tests), verdict,
    )  # fmt: skip


def _test(name: str | None, total: Total) -> DriftTest:
    p, share = total.sums.test(total.line.alpha), total.sums.share()
    return DriftTest(SHARE, name, share.value or 0.0, total.line.alpha, total.queries, p, p, drift=False)


def choose_window(windows: Sequence[WindowFigures]) -> WindowFigures | None:
    """Choose the window to look into; None without any.

    Of those that drifted the one with the highest share OOD beyond alpha, in all traffic or in a slice that drifted;
    else the latest tested one, else the latest.
    """
    drifted = [w for w in windows if w.verdict == DRIFT]
    if drifted:
        return max(drifted, key=lambda w: (max(t.value - t.expected for t in w.tests if t.drift), w.start))
    tested = [w for w in windows if w.tests]
    return tested[-1] if tested else windows[-1] if windows else None


def _focus(
    rollup: Rollup, totals: Sequence[Total], windows: Sequence[WindowFigures], filters: Filters, unit: int,
    nearest: Nearest | None,
) -> Focus | None:  # fmt: skip
    asked = [w for w in windows if w.holds(filters.window)]
    window = asked[-1] if asked else choose_window(windows)
    if window is None:
        return None
    since, until = _ms(window.start), _ms(window.end)
    line = _line_of(window, totals, filters.slice)
    strange = [
        Asked(str(t.body["query"]), int(t.count), t.ood_pairs, t.mean_share >= FLAGGED_SHARE)
        for t in rollup.queries(line, since, until, MOST_QUERIES, most_pairs=True)
    ]
    usual = rollup.usual_queries(line, since - unit, until, MOST_QUERIES)  # a strange window has few
    return Focus(
        window,
        tuple(_strange(t, "query", nearest) for t in rollup.queries(line, since, until, filters.top)),
        tuple(_strange(t, "item_text", nearest) for t in rollup.items(line, since, until, filters.top)),
        tuple(find_themes(strange, usual)),
        Flagged(*rollup.count_flagged(line, since, until, FLAGGED_SHARE)),
    )


def _line_of(window: WindowFigures, totals: Sequence[Total], slice_name: str | None) -> TrafficLine:
    key = window.model, window.version, window.alpha, slice_name
    return next(t.line for t in totals if (t.line.model, t.line.version, t.line.alpha, t.line.slice) == key)


def _strange(tally: Tally, field_name: str, nearest: Nearest | None) -> Strange:
    text, item = tally.body.get(field_name), tally.body.get("item_id")
    distance = None if tally.distance is None else float(tally.distance)
    why = None
    if nearest is not None and text:
        why = nearest.query(text) if field_name == "query" else nearest.item(text)
    return Strange(text, item, float(tally.count), float(tally.share_ood), distance, why)


def _window_key(total: Total) -> tuple[int, str, str, float]:
    return total.start_ms, total.line.model, total.line.version, total.line.alpha


def _ms(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _time(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, dict):
        return {key: _jsonable(entry) for key, entry in value.items()}
    return [_jsonable(entry) for entry in value] if isinstance(value, list | tuple) else value
