"""A headless Chromium for tests of pages, and pages of it that notice errors and every request to a network.

The fixture ``chromium`` is shared: a test module gets it by ``from tests.browser import chromium as chromium``. Where there is
no Chromium or no playwright its tests are skipped; with CHORUS_REQUIRE_CHROMIUM=1, as in continuous integration, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


def lacking(what: str) -> Any:
    """Skip the test, or fail it where CHORUS_REQUIRE_CHROMIUM says that a browser must be there."""
    if os.environ.get("CHORUS_REQUIRE_CHROMIUM"):
        pytest.fail(f"CHORUS_REQUIRE_CHROMIUM is set, and there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium with WebGL by software, for a module: while it is there, asyncio cannot be used in its process."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright")
    path = os.environ.get("CHORUS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        lacking("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def quiet_page(browser: Browser, *, offline: bool = True, width: int = 900, height: int = 700) -> Iterator[Page]:
    """A new page. When it is closed, AssertionError for errors and warnings of its console, and for requests to a network.

    offline  whether the network is off; then nothing but files and data may be asked for, else also 127.0.0.1
    """
    context = browser.new_context(viewport={"width": width, "height": height}, offline=offline)
    page = context.new_page()
    wrong: list[str] = []
    allowed = ("file:", "data:", "blob:") if offline else ("file:", "data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
    page.on("request", lambda request: None if request.url.startswith(allowed) else wrong.append(f"asked for {request.url}"))
    try:
        yield page
        assert wrong == []
    finally:
        context.close()
