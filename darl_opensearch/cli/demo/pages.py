"""What the demo leaves to be looked at: the monitor's page of its traffic, and commands that open the other pages."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.backends import INDEX, LOCAL_PIPELINE
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.monitor.drift.config import DriftConfig
from darl_opensearch.monitor.figures import Filters, LogSource

REPORT = "report.html"  # as darl train and darl cycle write it
WINDOW = "1m"  # the demo's traffic is a few minutes long


def write_monitor(out: Path, bundle: Bundle, url: str | None, since: datetime) -> Path:
    """Write the monitor's page of the demo's traffic, and the spool behind it: a node takes its own records along.

    :param bundle: version 1, which served the traffic.
    :param url: of the node, if there is one.
    :param since: when the demo started; a node that is kept has records of earlier ones.
    :return: the page.
    """
    from darl_opensearch.cli.monitor import read_releases
    from darl_opensearch.cluster import Cluster
    from darl_opensearch.cluster.switching import PipelineHistory
    from darl_opensearch.io.writing import write_file
    from darl_opensearch.monitor.page import render_monitor_page
    from darl_opensearch.monitor.web import Traffic
    from darl_opensearch.ood.rollup import copy_to_spool
    from darl_opensearch.ood.store import OodStore, SpoolStore, StreamStore

    until, spool = datetime.now(UTC), traffic_of(out)
    with contextlib.ExitStack() as stack:
        if url is None:
            logs = (out / "ood" / "spool.sqlite", out / "later" / "later.sqlite")
            stores: list[OodStore] = [stack.enter_context(SpoolStore(path)) for path in logs]
        else:
            stores = [StreamStore(connect(ClusterOptions(url=url)), where=url)]
        for store in stores:
            copy_to_spool(store, spool, since=since, until=until)
    releases = (
        read_releases(Cluster.open(ClusterOptions(url=url)), PipelineHistory(pipeline=LOCAL_PIPELINE)) if url else ()
    )
    traffic = Traffic(
        spool, str(spool), DriftConfig(window=WINDOW), bundle.card.scale.names, releases=releases,
        source=LogSource(("--spool", str(spool)), str(bundle.path), ("--window", WINDOW)),
    )  # fmt: skip
    found = traffic.read(Filters(since=since, until=until))
    page = out / "monitor.html"
    text = render_monitor_page(found, grades=traffic.grades, source=traffic.source, views=traffic.views(found))
    write_file(page, text)
    return page


def traffic_of(out: Path) -> Path:
    """Name the spool of all the demo's traffic."""
    return out / "ood" / "traffic.sqlite"


def list_places(
    out: Path, bundle: Path, new_bundle: Path, items: Sequence[Path], page: Path, states: Path, *, node: bool
) -> list[tuple[str, str]]:
    """List what to look at next: what is there, and its URL, file or command, which works in this folder.

    :param bundle: version 1.
    :param new_bundle: version 2.
    :param node: a node is left running.
    """
    darl = name_program()

    def command(*words: object) -> str:
        return f"{darl} {shlex.join(map(str, words))}"

    listed = [argument for path in items for argument in ("--items", _relative(path))]
    reports = (
        ("the training's report", out / "run" / REPORT), ("the cycle's report", new_bundle.parent / REPORT),
    )  # fmt: skip
    places = [
        *((what, path.resolve().as_uri()) for what, path in reports if path.is_file()),
        ("the monitor's page of this traffic", page.resolve().as_uri()),
        ("the same with filters",
         command("monitor", "--spool", traffic_of(out), "--window", WINDOW, "--bundle", bundle, "--web")),
        ("a page to search with both versions",
         command("try", bundle, "--against", _relative(new_bundle), *listed, "--states", states)),
        ("what was verified of the bundle, line by line", command("check", bundle)),
        ("the model card of what was trained", str(bundle / "README.md")),
    ]  # fmt: skip
    if (here := Path("README.md")).is_file() and items[0].resolve().is_relative_to(Path.cwd()):  # in a checkout
        places.append(("the same with your own items and judgments", f"{here}, “Use your own data”"))
    if node:
        search = ("--index", INDEX, "--pipeline", LOCAL_PIPELINE, "--bundle", bundle)
        places += [
            ("a search of the node that is left running", command("search", "cover for my new puppy", *search)),
            ("stopping that node", command("node", "down")),
        ]
    return places


def describe_places(places: Sequence[tuple[str, str]]) -> str:
    """Write them for a terminal, two lines each, so that a long command can be copied whole."""
    return "\n".join(["Where to look next:", *(f"  {what}:\n    {where}" for what, where in places)])


def _relative(path: Path) -> Path:
    """Shorten a path that lies in the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def name_program() -> str:
    """Name the command as this folder's shell finds it: by itself, by its path, or by its module."""
    own = Path(sys.executable).parent / "darl"
    found = shutil.which("darl")
    if found and os.path.realpath(found) == os.path.realpath(own):
        return "darl"
    if own.is_file():
        return shlex.quote(str(_relative(own)))
    return f"{shlex.quote(sys.executable)} -m darl_opensearch"
