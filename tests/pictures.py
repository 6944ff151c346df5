"""Draw the pictures in docs/pictures/ anew, from pages as they are now: ``python -m tests.pictures [NAME …]``.

They are looked at, not compared: a test would fail with every font.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from tests.helpers.browser import Window, chromium

FOLDER = Path(__file__).parents[1] / "docs/pictures"
MOST_BYTES = 150_000
WIDTH, HEIGHT = 1100, 825


def monitor(folder: Path) -> Path:
    """The monitor's page after two days of strange traffic."""
    from tests.helpers.commands import run_main
    from tests.helpers.drift import STRANGE, USUAL, World, write_log

    world = World(folder / "bundle")
    requests = world.traffic(12, 60) + [
        r for day in (12, 13) for r in world.day(day, world.queries(60, _rng(day), [*USUAL[:6], *STRANGE]), push=1.5)
    ]
    log = write_log(folder / "ood.sqlite", requests, world.policy())
    with contextlib.chdir(folder):  # the page names the log
        said = run_main("monitor", "--spool", log.name, "--window", "1d", "--until", "2026-03-15",
                        "--html", folder / "monitor.html")  # fmt: skip
    assert said.code == 0, said.err
    return folder / "monitor.html"


def _rng(seed: int):
    import numpy as np

    return np.random.default_rng(seed)


def tryout(folder: Path) -> str:
    """The try-out page over the insurance sample, with a model trained on it: some ten minutes."""
    from darl_opensearch.tryout.page import create_tryout_app
    from tests.helpers.serving import serving
    from tests.helpers.trained import SAMPLE, train_and_export
    from tests.helpers.tryouts import trying

    bundle = train_and_export(folder, SAMPLE / "darl.toml")[1]
    files = [SAMPLE / "items.jsonl", SAMPLE / "new_items.jsonl"]
    opened = ExitStack()
    atexit.register(opened.close)
    shown = opened.enter_context(trying([bundle], files, judgments=folder / "mine.jsonl"))
    shown.search({"query": "my bike was stolen!"})  # its items have states then, as most have after a while
    url = opened.enter_context(serving(create_tryout_app(shown)))
    return f"{url}?q=my+bike+was+stolen"


def judging(folder: Path) -> str:
    """The labelling page, with an image drawn here."""
    from PIL import ImageDraw

    from darl_opensearch.scores import GradeScale
    from tests.helpers.judging import task
    from tests.helpers.serving import serving
    from trainer.judging.web.images import Images
    from trainer.judging.web.page import Labelling, create_judging_app
    from trainer.judging.web.store import AnswerStore

    drawn = Image.new("RGB", (300, 190), "#eef2f7")
    pen = ImageDraw.Draw(drawn)
    for x in (80, 220):
        pen.ellipse((x - 50, 70, x + 50, 170), outline="#334155", width=6)
    pen.line([(80, 120), (125, 55), (195, 55), (150, 120), (80, 120)], fill="#b45309", width=7)
    pen.line([(125, 55), (150, 120)], fill="#b45309", width=7)
    pen.line([(220, 120), (190, 40), (210, 30)], fill="#b45309", width=7)
    pen.line([(110, 45), (140, 45)], fill="#334155", width=8)
    drawn.save(folder / "bicycle.png")
    tasks = [
        task(
            "my bike was stolen!", "bicycle-cover",
            "Bicycle cover | Pays the price of a new bicycle, up to 3,000, if yours is stolen while it is locked, or "
            "damaged beyond repair. Accessories that are fixed to it are included.",
            information_need="Has lost a bicycle last night and wants to know whether anything pays for it, and what "
            "to do first.", image="bicycle.png",
        ),
        task("my bike was stolen!", "b"), task("my bike was stolen!", "c"),
    ]  # fmt: skip
    guideline = (
        "| grade | means |\n|---|---|\n| exact | answers the need by itself |\n| substitute | helps, but not fully |\n"
        "| complement | goes with what answers it |\n| irrelevant | none of these |\n\n"
        "**In doubt, the lower grade.** Judge the need, not the words."
    )
    scale = GradeScale(("irrelevant", "complement", "substitute", "exact"), (0.0, 0.01, 0.1, 1.0))
    store = AnswerStore(folder / "web.sqlite")
    labelling = Labelling(tasks, scale, guideline, store, raters=("ann", "ben"), images=Images.of(".", folder))
    opened = ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(serving(create_judging_app(labelling)))


@functools.cache
def _demo() -> Path:
    """The demo's cycle, trained and judged without a cluster: some ten minutes."""
    from tests.helpers.commands import run_main

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    with contextlib.chdir(folder):
        said = run_main("demo", "--embedded", "--out", "demo-out")
    assert said.code == 0, said.err
    return folder / "demo-out/later/cycles/0001/report.html"


def report(folder: Path) -> str:
    """The report of the demo's cycle, at the gate."""
    return f"{_demo().as_uri()}#section-gate"


def report_map(folder: Path) -> str:
    """The same, at the map of the selected samples."""
    return f"{_demo().as_uri()}#section-selected-samples"


PICTURES: dict[str, Callable[[Path], Path | str]] = {  # each makes the page to be shown, or serves it
    "judging": judging,
    "monitor": monitor,
    "tryout": tryout,
    "report": report,
    "report-map": report_map,
}


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with chromium() as browser:
        for name in names or PICTURES:
            with tempfile.TemporaryDirectory() as folder:
                page = PICTURES[name](Path(folder))
                for dark in (False, True):
                    window = Window(browser, dark=dark, width=WIDTH, height=HEIGHT)
                    sheet = window.open(page)
                    sheet.wait_for_load_state("networkidle")
                    file = FOLDER / f"{name}{'-dark' if dark else ''}.png"
                    sheet.screenshot(path=file)
                    Image.open(file).quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
                    window.close()
                    assert window.errors == [], window.errors
                    assert file.stat().st_size <= MOST_BYTES, f"{file}: {file.stat().st_size} bytes"
                    print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
