"""Answers that need no request to the vendor: from the hot tier, or from history if it holds all of their rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.fetch.upstream_jobs import QueryProgress
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.planner import Plan, Planner
from cache_pipeline.storage.answer import Answer, render, roll_up_completeness
from cache_pipeline.storage.base import History, HotTier
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ttl import HOT_TTL_TIER
from cache_pipeline.telemetry import spans

#: What a caller hears while it waits for an answer: a verdict, or the vendor's progress on a query.
ProgressEvent = ChunkResult | QueryProgress


@dataclass(frozen=True)
class CachedAnswers:
    """Reads stored answers, and writes to the hot tier those that it renders from history.

    Attributes:
        history: The tier that holds rows.
        hot: The tier that holds rendered answers.
        planner: Finds what history holds for a query.
        coalescer: Shares one task between all identical callers of this process.
        clock: The current time, in UTC.
    """

    history: History
    hot: HotTier
    planner: Planner
    coalescer: Coalescer[Answer | None, ProgressEvent]
    clock: Callable[[], datetime]

    async def lookup(self, query: CanonicalQuery, *, stale: timedelta = timedelta(0)) -> Answer | None:
        """Return the answer if hot or history holds it; None if something must be fetched from the vendor.

        Args:
            query: The query.
            stale: By how much provisional figures may be older than the report's freshness.
        """
        return await self.from_hot(query) or await self._from_history_once(query, self.clock() - stale)

    async def final_only(self, query: CanonicalQuery) -> Answer | None:
        """Return the answer if history holds all of it and none of it can change any more, else None."""
        plan = await self.planner.plan(query, self.clock(), final_only=True)
        return None if plan.to_fetch else await self.render_and_cache(plan)

    async def from_hot(self, query: CanonicalQuery) -> Answer | None:
        """Return the answer if the hot tier holds it; refresh it in the background if the tier picks this reader for that."""
        held = await self.hot.get_entry(query)
        if held is None:
            return None
        if held.is_refresh_due:
            self.refresh_in_background(query)
        return held.answer

    def refresh_in_background(self, query: CanonicalQuery) -> None:
        """Start a task that renders the answer from history again and writes it to the hot tier."""
        self.coalescer.run_in_background(query.cache_key(HOT_TTL_TIER), lambda: self.from_history(query, self.clock()))

    async def _from_history_once(self, query: CanonicalQuery, as_of: datetime) -> Answer | None:
        """Read history once for all callers that miss the same answer in the hot tier."""
        key = f"{as_of.isoformat(timespec='seconds')} {query.cache_key(HOT_TTL_TIER)}"
        return await self.coalescer.run(key, lambda _notify: self.from_history(query, as_of))

    async def from_history(self, query: CanonicalQuery, as_of: datetime) -> Answer | None:
        """Render and cache the answer if history holds all of it, fresh enough at an instant; else return None."""
        plan = await self.planner.plan(query, as_of)
        return None if plan.to_fetch else await self.render_and_cache(plan)

    async def render_and_cache(self, plan: Plan) -> Answer:
        """Render the answer of a plan that needs no fetch, and write it to the hot tier.

        Raises:
            RuntimeError: History does not hold all of the plan's interval.
        """
        started = time.monotonic()
        query, rule = plan.query, FreshnessRule.of(plan.query.source_series.report)
        completeness = rule.completeness_of(plan.coverage, query.available_interval)
        if completeness is None:
            raise RuntimeError(
                f"history does not hold all of {query.source_series.report.name} {query.available_interval}, "
                "though its plan needs no fetch; this is a bug in the planner"
            )
        if query.rollup_source is not None:
            completeness = roll_up_completeness(completeness, query)
        answer = render(query, await self.planner.read_rows(plan), completeness)
        with spans.span("store hot", report=query.source_series.report.name):
            await self.hot.put([(query, answer)], self.clock(), cost=time.monotonic() - started)
        return answer

    async def render_many(self, series: Series, intervals: Sequence[Interval]) -> list[tuple[CanonicalQuery, Answer]]:
        """Render the answers of those intervals that history holds, in a few reads."""
        requested = IntervalSet(intervals)
        around = (
            Interval(min(each.start for each in requested), max(each.end for each in requested)) if requested else None
        )
        coverage = await asyncio.to_thread(self.history.coverage, series, around)
        stored, rule = requested & (coverage.final | coverage.provisional), FreshnessRule.of(series.report)
        rows = await asyncio.to_thread(self.history.rows, series, stored, self.planner.columns(series.report))
        return [
            (query, render(query, rows.within(interval).to_table(), completeness))
            for interval in intervals
            if (completeness := rule.completeness_of(coverage, interval)) is not None
            and (query := CanonicalQuery(series, interval))
        ]
