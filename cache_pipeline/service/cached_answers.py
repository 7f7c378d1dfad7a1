"""Answers that need nothing of the vendor: from the hot tier, or from history when it holds all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.planner import Plan, Planner
from cache_pipeline.storage.answer import Answer, render, rolled_up
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.redis.hot import HotTier
from cache_pipeline.storage.ttl import HOT_TTL_TIER, report_freshness
from cache_pipeline.telemetry import spans

#: What those hear who wait for an answer: a verdict, or how far the query of an interval is.
ProgressEvent = ChunkResult | tuple[Interval, float | None]


@dataclass(frozen=True)
class CachedAnswers:
    """Reads what is held, and puts into the hot tier what it read from history.

    Attributes:
        history, hot: the tiers.
        planner: finds what history holds of a query.
        coalescer: one task for all identical callers of this process.
        clock: the time, in UTC.
    """

    history: History
    hot: HotTier
    planner: Planner
    coalescer: Coalescer[Answer | None, ProgressEvent]
    clock: Callable[[], datetime]

    async def lookup(self, query: CanonicalQuery, *, stale: timedelta = timedelta(0)) -> Answer | None:
        """The answer where hot or history holds it; None where the vendor must be asked.

        Args:
            query: what is asked.
            stale: by how much provisional figures may be older than the report's freshness.
        """
        return await self.from_hot(query) or await self._from_history_once(query, self.clock() - stale)

    async def final_only(self, query: CanonicalQuery) -> Answer | None:
        """The answer where history holds all of it and none of it can change any more."""
        return await self.from_history(query, self.clock() + report_freshness(query.source_series.report))

    async def from_hot(self, query: CanonicalQuery) -> Answer | None:
        """The answer where the hot tier holds it; the lot may fall on this reader to have it made anew meanwhile."""
        held = await self.hot.look(query)
        if held is None:
            return None
        if held.due:
            self.refresh_in_background(query)
        return held.answer

    def refresh_in_background(self, query: CanonicalQuery) -> None:
        """Have the hot tier's answer made anew from history, in the background."""
        self.coalescer.begin(query.cache_key(HOT_TTL_TIER), lambda: self.from_history(query, self.clock()))

    async def _from_history_once(self, query: CanonicalQuery, asked_at: datetime) -> Answer | None:
        """One read of history for all who miss the same answer in the hot tier."""
        key = f"{asked_at.isoformat(timespec='seconds')} {query.cache_key(HOT_TTL_TIER)}"
        return await self.coalescer.run(key, lambda _tell: self.from_history(query, asked_at))

    async def from_history(self, query: CanonicalQuery, asked_at: datetime) -> Answer | None:
        """The answer where history holds all of it fresh enough; it goes into the hot tier on the way."""
        plan = await self.planner.plan(query, asked_at)
        return None if plan.due else await self.render_and_cache(plan)

    async def render_and_cache(self, plan: Plan) -> Answer:
        """The answer that a plan finds held; it goes into the hot tier on the way."""
        started = time.monotonic()
        query, completeness = plan.query, plan.coverage.of(plan.query.available_interval)
        if completeness is None:
            raise RuntimeError(
                f"{query.source_series.report.name} {query.available_interval}: the plan leaves out a part"
            )
        if query.rollup_source is not None:
            completeness = rolled_up(completeness, query)
        answer = render(query, await self.planner.rows(plan), completeness)
        with spans.span("store hot", report=query.source_series.report.name):
            await self.hot.put([(query, answer)], self.clock(), cost=time.monotonic() - started)
        return answer

    async def render_many(self, series: Series, intervals: Sequence[Interval]) -> list[tuple[CanonicalQuery, Answer]]:
        """Answers as they would go out, for those of the intervals that history holds, in a few reads."""
        asked = IntervalSet(intervals)
        hull = Interval(min(each.start for each in asked), max(each.end for each in asked)) if asked else None
        coverage = await asyncio.to_thread(self.history.coverage, series, hull)
        held = asked & (coverage.complete | coverage.provisional)
        rows = await asyncio.to_thread(self.history.rows, series, held, self.planner.columns(series.report))
        return [
            (query, render(query, rows.within(interval).to_table(), completeness))
            for interval in intervals
            if (completeness := coverage.of(interval)) is not None and (query := CanonicalQuery(series, interval))
        ]
