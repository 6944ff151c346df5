"""The monitor's page, made anew for each request from the spool's roll-ups."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.monitor.figures import SOME_LOG, Filters, LogSource, Overview, ReleaseMark, list_views, overview
from darl_opensearch.monitor.nearest import Nearest
from darl_opensearch.monitor.page import render_monitor_page
from darl_opensearch.ood.record import parse_timestamp
from darl_opensearch.ood.rollup import Rollup
from darl_opensearch.ood.spool import Spool
from darl_opensearch.web.guard import Guard
from darl_opensearch.web.markup import escaped
from darl_opensearch.web.page import headers, page

MOST_VIEWS = 40  # read for one file


@dataclass(frozen=True)
class Traffic:
    """Where the figures come from.

    :param spool: opened for each reading, so that it may be replaced.
    :param store: its name on the page.
    :param grades: names of the grades, from grade 0.
    :param nearest: training texts, to say why a text is strange.
    :param counters: of the spool whose records these are, if it is another one.
    :param releases: of the pipeline, by time.
    :param releases_unread: why its history could not be read, if it could not.
    :param source: how commands on the page read the same records.
    """

    spool: Path
    store: str
    config: DriftConfig = DriftConfig()
    grades: Sequence[str] = ()
    nearest: Nearest | None = None
    counters: Mapping[str, int] | None = None
    releases: Sequence[ReleaseMark] = ()
    releases_unread: str = ""
    source: LogSource = SOME_LOG

    def read(
        self, filters: Filters, report: Callable[[str, int, int], object] = lambda what, done, total: None
    ) -> Overview:
        """Read the figures.

        :param report: called with the activity, and done and total, while roll-ups are brought up to date.
        """
        with Spool.open(self.spool) as spool:
            rollup = Rollup(spool)
            rollup.update(report)
            counters = spool.counters() if self.counters is None else self.counters
            found = overview(rollup, filters, self.config, store=self.store, counters=counters, nearest=self.nearest)
        releases = [r for r in self.releases if (filters.since or r.time) <= r.time < found.until]
        return dataclasses.replace(found, releases=tuple(releases), releases_unread=self.releases_unread)

    def views(
        self, found: Overview, report: Callable[[str, int, int], object] = lambda what, done, total: None
    ) -> Iterator[Overview]:
        """Read what a page without a server may carry beside ``found``, the most useful first.

        :param report: called with the activity, and done and total.
        """
        chosen = list(itertools.islice(list_views(found), MOST_VIEWS))
        for done, filters in enumerate(chosen):
            report("views", done, len(chosen))
            yield self.read(filters)


def create_monitor_app(traffic: Traffic, filters: Filters) -> Starlette:
    """Make the application for this machine: the page, and its figures as JSON.

    :param filters: what is shown unless the URL says otherwise.
    """

    async def front(request: Request) -> Response:
        return await show(traffic, parse_filters(request.query_params, filters))

    async def figures(request: Request) -> Response:
        found = await run_in_threadpool(traffic.read, parse_filters(request.query_params, filters))
        return JSONResponse(found.to_json())

    return Starlette(
        routes=[Route("/", front), Route("/figures.json", figures)],
        middleware=[Middleware(Guard)],
        exception_handlers={InputError: refusal_page, DarlError: refusal_page},
    )


async def show(traffic: Traffic, filters: Filters, top: Sequence[str] = ()) -> Response:
    """Answer with the page.

    :param top: HTML before everything else.
    """

    def render() -> str:
        found = traffic.read(filters)
        return render_monitor_page(found, grades=traffic.grades, source=traffic.source, filters=True, top=top)

    return respond(await run_in_threadpool(render))


def respond(html: str, status: int = 200) -> Response:
    """Answer with a page, and with its own policy."""
    return HTMLResponse(html, status, headers(html))


async def refusal_page(request: Request, err: Exception) -> Response:
    """Answer with a page that says what is wrong, and leads back."""
    status = 400 if isinstance(err, InputError) else 503
    return respond(page("Traffic monitor", ["<h1>Traffic monitor</h1>", f'<div class="bad"><p>{escaped(err)}</p></div>',
                                            '<p><a href="?">Show all</a></p>']), status)  # fmt: skip


def parse_filters(query: Mapping[str, str], default: Filters) -> Filters:
    """Read filters from a URL's parameters; empty ones are left out.

    :raises InputError: for a time that is none.
    """
    times = {name: _time(name, query[name]) for name in ("since", "until", "window") if query.get(name)}
    slice_name = query.get("slice", "")
    return Filters(
        since=times.get("since", default.since), until=times.get("until", default.until),
        window=times.get("window", default.window), model=query.get("model") or default.model,
        slice=slice_name[1:] if slice_name.startswith("=") else default.slice, top=default.top,
    )  # fmt: skip


def write_query(filters: Filters) -> str:
    """Write what is looked at as a URL's query; empty without version, slice and window."""
    values = {"model": filters.model, "slice": None if filters.slice is None else f"={filters.slice}",
              "window": filters.window and f"{filters.window:%Y-%m-%dT%H:%M}"}  # fmt: skip
    given = {name: value for name, value in values.items() if value}
    return f"?{urlencode(given)}" if given else ""


def _time(name: str, text: str) -> datetime:
    try:
        found = parse_timestamp(text)
    except (ValueError, OverflowError) as err:
        raise InputError(
            f"{name} is not a time", where=text[:50], todo="write it like 2026-03-01T12:00, in UTC"
        ) from err
    if not 1970 <= found.year <= 9000:
        raise InputError(f"{name} is not a time of a log", where=text[:50], todo="write it like 2026-03-01T12:00")
    return found
