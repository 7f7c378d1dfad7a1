"""A published contact centre, served on loopback, and a real browser that can reach nothing else."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline_tests.dashboard.centre import NOW, publish_centre
from cache_pipeline_tests.programs import program

LABELS = {"queue_id": {"billing": "Billing & invoices", "orders": "<img src=x onerror=alert(1)>"}}


# Not for the session: while it lasts an event loop runs in this thread, and no asynchronous test can have one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published once; a test that changes it makes its own."""
    folder = tmp_path_factory.mktemp("site")
    edge = EdgeTier(f"file://{folder}", lambda: NOW)
    publish_centre(edge)
    publish_page(edge.store, LABELS)
    return folder


@pytest.fixture(scope="session")
def url(site: Path) -> Iterator[str]:
    with serving_edge(site) as base:
        yield f"{base}/v1/default/"


class Seen:
    """What a page asked for and said."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []


Open = Callable[..., Page]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def opened(browser: Browser, url: str, seen: Seen) -> Iterator[Open]:
    """Opens the page: `opened("dataset=queue_hour")`, with options of the browser's context."""
    contexts: list[Any] = []

    def open_page(
        choice: str = "",
        *,
        at: datetime = NOW,
        ready: bool = True,
        address: str = "",
        prepare: Any = None,
        **options: Any,
    ) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "timezone_id": "America/New_York", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.clock.set_fixed_time(at)
        page.on("console", lambda message: seen.messages.append(message.text))
        page.on("pageerror", lambda error: seen.messages.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        own = urlsplit(url).netloc
        context.route(lambda target: urlsplit(target).netloc not in (own, ""), lambda route: route.abort())
        if prepare:
            prepare(page)
        page.goto(f"{address or url}#{choice}")
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
