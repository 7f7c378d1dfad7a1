"""Keeps live reports fresh to a second where a vendor reports changes, and asks for them in between where it does not.

One process of the deployment follows a report; the others read the hot tier. While the vendor's connection is gone, the same process asks
as often as without it, and every answer says so.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cache_pipeline.errors import CachePipelineError, PushLost
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.service.live_answers import LiveAnswers, find_live_kind, live_key, render_rows
from cache_pipeline.storage.answer import DeliveryMode, LiveDelivery
from cache_pipeline.storage.ttl import LIVE_TTL
from cache_pipeline.vendors.spec import LiveRequest

if TYPE_CHECKING:
    from cache_pipeline.vendors.spec import Push

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushPace:
    """How soon a lost connection is opened again, and how often is asked meanwhile.

    Attributes:
        first_retry: Seconds before the first attempt; each further one takes twice as long.
        longest_retry: The longest pause, in seconds.
        settle: Seconds for which a connection has to last before it counts as found again.
        ask_every: How often the figures are asked for meanwhile: before those in the hot tier expire.
    """

    first_retry: float = 1.0
    longest_retry: float = 60.0
    settle: float = 5.0
    ask_every: timedelta = LIVE_TTL * 0.85


@dataclass
class LivePush:
    """Follows one live report for all processes.

    Attributes:
        answers: The answers that it keeps fresh.
        report: The report.
        tenant: The tenant.
        pace: How soon to try again.
        uniform: Returns random numbers in [0, 1), so that several reports do not try again in step.
    """

    answers: LiveAnswers
    report: LiveReport
    tenant: str
    pace: PushPace = PushPace()
    uniform: Callable[[], float] = random.random
    _push_since: datetime | None = field(default=None, init=False)
    _lost_since: datetime | None = field(default=None, init=False)
    _problem: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Follow the report until cancelled, as soon as no other process does."""
        open_push, client = find_live_kind(self.report).open_push, self.answers.clients.get(self.report.account_id)
        if open_push is None or client is None:
            return
        key = live_key(self.report, self.tenant)

        async def never() -> bool:
            return False

        while True:
            # Its holder renews it as long as it runs; a process that dies loses it after some seconds.
            async with self.answers.single_flight.acquire(f"{key} push", never):
                await self._follow_for_all(open_push(client), key)

    async def _follow_for_all(self, push: Push, key: str) -> None:
        retry = self.pace.first_retry
        while True:
            started = self.answers.clock()
            try:
                await self._follow(push, key)
                problem = None
            except CachePipelineError as error:
                problem = str(error)
            if problem is None:
                retry = self.pace.first_retry
                continue
            is_new = self._lost_since is None
            if is_new:
                self._lost_since, self._push_since = self.answers.clock(), None
                logger.warning(
                    "%s: the vendor no longer reports changes, so it is asked: %s", self.report.name, problem
                )
            if self.answers.clock() - started > timedelta(seconds=self.pace.longest_retry):
                retry = self.pace.first_retry
            self._problem = problem
            await self._ask_for(retry * (0.5 + self.uniform()), key, at_once=is_new)
            retry = min(2 * retry, self.pace.longest_retry)

    async def _follow(self, push: Push, key: str) -> None:
        request = LiveRequest(self.report, await self.answers.listed_ids(self.report, self.tenant), self.answers.clock)
        if not request.ids:
            raise PushLost("there is nothing to observe")
        connected_at: datetime | None = None
        async with aclosing(push.follow(request)) as changes:
            async for rows in changes:
                now = self.answers.clock()
                connected_at = connected_at or now
                if self._lost_since is not None and now - connected_at >= timedelta(seconds=self.pace.settle):
                    logger.warning("%s: the vendor reports changes again", self.report.name)
                    self._lost_since = None
                answer = await asyncio.to_thread(render_rows, self.report, rows, now, self._delivery(connected_at))
                await self.answers.store(key, answer)

    def _delivery(self, connected_at: datetime) -> LiveDelivery:
        """Return how the figures of a connection come here; it has to last before it counts."""
        if self._lost_since is not None:
            return LiveDelivery(DeliveryMode.polling, self._lost_since, self._problem)
        self._push_since = self._push_since or connected_at
        return LiveDelivery(DeliveryMode.push, self._push_since)

    async def _ask_for(self, seconds: float, key: str, *, at_once: bool) -> None:
        """Ask for the figures whenever they are due, for some seconds.

        Args:
            seconds: How long.
            key: The key of the answer.
            at_once: Whether to ask now too: the figures at hand say that the vendor reports changes, which it no longer does.
        """
        delivery = LiveDelivery(DeliveryMode.polling, self._lost_since, self._problem)
        until = self.answers.clock() + timedelta(seconds=seconds)
        while (now := self.answers.clock()) < until:
            due = now if at_once else await self.answers.due_at(key, self.pace.ask_every)
            at_once = False
            if due <= now:
                try:
                    await self.answers.ask(self.report, self.tenant, delivery)
                    continue
                except CachePipelineError as error:
                    # Readers ask themselves then, and get the error.
                    logger.info("%s: the figures cannot be asked for: %s", self.report.name, error)
                    due = until
            await asyncio.sleep((min(due, until) - now).total_seconds())
