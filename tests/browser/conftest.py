"""A real Chromium, and pages opened in it with everything watched that a reader could be harmed or annoyed by."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Opened:
    """A page and what happened while it was open."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium with a new profile; without one the tests skip, or fail under PERFGATE_REQUIRE_BROWSER=1.

    Not for the session: Playwright's event loop stays the running one of this thread until it is closed, and the
    load client, which every later test may use, needs to start its own.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        said = f"no Chromium here (looked for {', '.join(NAMES)} on PATH)"
        if os.environ.get("PERFGATE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{said}, and PERFGATE_REQUIRE_BROWSER=1 asks for one", pytrace=False)
        pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Playwright gives every launch an empty --user-data-dir of its own and removes it.
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens HTML text from a file: ``open_page(text, width=1200, scheme="light", scripts=True)``."""
    contexts = []

    def opened(text: str, *, width: int = 1200, scheme: str = "light", scripts: bool = True) -> Opened:
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        made = Opened(page=context.new_page())
        made.page.on("console", lambda message: made.complaints.append(f"{message.type}: {message.text}"))
        made.page.on("pageerror", lambda error: made.complaints.append(f"uncaught: {error}"))
        made.page.on("request", lambda request: made.requests.append(request.url))
        made.page.goto(file.as_uri())
        return made

    yield opened
    for context in contexts:
        context.close()
