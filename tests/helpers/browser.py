"""Pages as a person meets them: in Chromium, light or dark, wide or narrow, watched for errors and for requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the Chromium of this machine; a test that needs it is skipped without one, or fails where it is required."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing("Chromium is not installed (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (make venv)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def missing(reason: str) -> None:
    if os.environ.get("DARL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"DARL_REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(reason)


class Window:
    """A window on one page.

    :param errors: what the page wrote as an error: of a script, or refused by the page's policy.
    :param asked: URLs that it requested after its own.
    """

    def __init__(self, browser: Browser, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        self._context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            reduced_motion="reduce", timezone_id="America/New_York",
        )  # fmt: skip
        self._context.set_default_timeout(10_000)
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, place: Path | str) -> Page:
        """Load a file or a URL; nothing else may be asked for unless the test says so."""
        self.page.goto(place.as_uri() if isinstance(place, Path) else place)
        self.asked = [url for url in self.asked[1:] if not url.startswith("data:")]
        return self.page

    def faults(self) -> list[str]:
        """What axe finds that is serious or critical, by WCAG 2.2 A and AA, with the elements."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
        return [
            f"{one['id']}: {one['help']}: " + "; ".join(node["html"][:120] for node in one["nodes"][:3])
            for one in found.response["violations"] if one["impact"] in ("serious", "critical")
        ]  # fmt: skip

    def overflows(self) -> bool:
        """Whether the page as a whole must be scrolled sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def close(self) -> None:
        self._context.close()
