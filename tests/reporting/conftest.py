"""A real browser, for the tests marked so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SWITCHES = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "chromium is not installed (Debian's package chromium)"
        if os.environ.get("LEHR_REQUIRE_ALL"):
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a report in a window of its own; at the end it must have loaded itself only, and said nothing."""
    said: list[str] = []
    loaded: list[str] = []
    files: list[str] = []

    def open_page(file: Path, *, width: int = 1280) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: loaded.append(request.url))
        files.append(file.as_uri())
        page.goto(files[-1])
        page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert said == []
    assert [url for url in loaded if not url.startswith("data:")] == files
