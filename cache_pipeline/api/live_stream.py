"""Streams of the live page: one reader for each report, however many pages are open in this process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.api.problems import problem_for

logger = logging.getLogger(__name__)
#: How often the hot tier is looked at while a page is open.
_LOOK_SECONDS = 0.5

ReadBoard = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass
class BoardFeed:
    """What is known of one report, for all of its pages.

    Attributes:
        board: What the page shows; None until it was read for the first time.
        problem: Why it could not be read just now, as a document of problem details; None if it was.
        listeners: Set whenever one of them changes.
    """

    board: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None
    listeners: set[asyncio.Event] = field(default_factory=set[asyncio.Event])

    def update(self, board: Mapping[str, Any] | None, problem: Mapping[str, Any] | None) -> None:
        """Replace what is known, and wake the listeners if it changes."""
        if board is self.board and problem == self.problem:
            return
        self.board, self.problem = board, problem
        for listener in self.listeners:
            listener.set()


@dataclass(frozen=True)
class BoardFeeds:
    """The feeds that pages are open for, by report and tenant.

    Attributes:
        look_seconds: How often a feed is read.
    """

    look_seconds: float = _LOOK_SECONDS
    _feeds: dict[tuple[str, str], tuple[BoardFeed, asyncio.Task[None]]] = field(
        default_factory=dict[tuple[str, str], tuple[BoardFeed, "asyncio.Task[None]"]]
    )

    @asynccontextmanager
    async def subscribe(
        self, report: str, tenant: str, open_reader: Callable[[], ReadBoard]
    ) -> AsyncGenerator[tuple[BoardFeed, asyncio.Event]]:
        """Yield a report's feed, and an event that is set whenever it changes while the block lasts.

        Args:
            report: The report.
            tenant: The tenant.
            open_reader: Returns the function that reads the board; called for the first page only.
        """
        key = report, tenant
        if key not in self._feeds:
            feed = BoardFeed()
            self._feeds[key] = feed, asyncio.create_task(self._keep_reading(feed, open_reader()))
        feed, task = self._feeds[key]
        changed = asyncio.Event()
        feed.listeners.add(changed)
        try:
            yield feed, changed
        finally:
            feed.listeners.discard(changed)
            if not feed.listeners:
                del self._feeds[key]
                await cancel_and_wait([task])

    async def _keep_reading(self, feed: BoardFeed, read: ReadBoard) -> None:
        while True:
            try:
                feed.update(await read(), None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the pages say that the figures are old
                problem = problem_for(error)
                if feed.problem is None:
                    logger.warning("the live figures cannot be read: %s", type(error).__name__)
                feed.update(feed.board, problem.document())
            await asyncio.sleep(self.look_seconds)


def format_event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
