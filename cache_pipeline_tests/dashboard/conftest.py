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
from cache_pipeline_tests.programs import find_program

NAMES = {"queue_id": {"billing": "Billing & invoices", "orders": "<img src=x onerror=alert(1)>"}}


# Not session-scoped: the browser runs an event loop in this thread, and no asynchronous test could start its own meanwhile.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site published once for the session; a test that changes the site publishes its own."""
    folder = tmp_path_factory.mktemp("site")
    edge = EdgeTier(f"file://{folder}", lambda: NOW)
    publish_centre(edge)
    publish_page(edge.store, NAMES)
    return folder


@pytest.fixture(scope="session")
def url(site: Path) -> Iterator[str]:
    with serving_edge(site) as base:
        yield f"{base}/v1/default/"


class PageLog:
    """The requests that a page made and the messages that it logged."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []


OpenPage = Callable[..., Page]


@pytest.fixture
def page_log() -> PageLog:
    return PageLog()


@pytest.fixture
def open_page(browser: Browser, url: str, page_log: PageLog) -> Iterator[OpenPage]:
    """Open the page: `open_page("dataset=queue_hour")`, with options for the browser's context."""
    contexts: list[Any] = []

    def open_browser_page(
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
        page.on("console", lambda message: page_log.messages.append(message.text))
        page.on("pageerror", lambda error: page_log.messages.append(str(error)))
        page.on("request", lambda request: page_log.requests.append(request.url))
        own = urlsplit(url).netloc
        context.route(lambda target: urlsplit(target).netloc not in (own, ""), lambda route: route.abort())
        if prepare:
            prepare(page)
        page.goto(f"{address or url}#{choice}")
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_browser_page
    for context in contexts:
        context.close()
