"""Answers that need no request to the vendor: from the hot tier, or from history if it holds all of their rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.errors import AnswerTooLarge
from cache_pipeline.fetch.upstream_jobs import QueryProgress
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.plan import AnswerSource, Plan, StoredParts
from cache_pipeline.service.planner import Planner
from cache_pipeline.storage.answer import Answer, render, roll_up_completeness
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.ports.hot import HotTier
from cache_pipeline.storage.ttl import HOT_TTL_TIER
from cache_pipeline.telemetry import spans

#: What a caller hears while it waits for an answer: a verdict, or the vendor's progress on a query.
ProgressEvent = ChunkResult | QueryProgress


@dataclass(frozen=True)
class Hit:
    """The stores hold the answer.

    Attributes:
        answer: The answer.
        source: The tier that it came from: hot, or history.
    """

    answer: Answer
    source: AnswerSource


@dataclass(frozen=True)
class Miss:
    """Something must be fetched from the vendor.

    Attributes:
        plan: What is fetched, and how. It is the plan that is queued, priced and executed.
        stored: What history held when the plan was made.
    """

    plan: Plan
    stored: StoredParts


@dataclass(frozen=True)
class AnswerLimits:
    """How large one answer may be.

    Attributes:
        rows: The most rows.
        bytes: The most bytes of its JSON.
    """

    rows: int
    bytes: int

    def check_rows(self, query: CanonicalQuery, rows: int) -> None:
        """Refuse an answer with too many rows.

        Raises:
            AnswerTooLarge: It has.
        """
        if rows > self.rows:
            raise _too_large(query, f"{self.rows:,} rows")

    def check_bytes(self, query: CanonicalQuery, size: int) -> None:
        """Refuse an answer with too many bytes.

        Raises:
            AnswerTooLarge: It has.
        """
        if size > self.bytes:
            raise _too_large(query, f"{self.bytes:,} bytes")


def _too_large(query: CanonicalQuery, limit: str) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"the answer to {query.series.report.name} {query.interval} has more than {limit}",
        remedy="ask for a shorter interval, a longer granularity, fewer dimensions (group_by) or fewer of their values (filters)",
    )


@dataclass(frozen=True)
class CachedAnswers:
    """Reads stored answers, and writes to the hot tier those that it renders from history.

    Attributes:
        history: The tier that holds rows.
        hot: The tier that holds rendered answers.
        planner: Finds what history holds for a query.
        coalescer: Shares one task between all identical callers of this process.
        clock: The current time, in UTC.
        limits: How large an answer may be; None for any size.
    """

    history: History
    hot: HotTier
    planner: Planner
    coalescer: Coalescer[Hit | Miss, ProgressEvent]
    clock: Callable[[], datetime]
    limits: AnswerLimits | None = None

    async def lookup(self, query: CanonicalQuery) -> Hit | Miss:
        """Return the answer if hot or history holds it; otherwise the plan to fetch what is missing.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        key = query.cache_key(HOT_TTL_TIER)
        if (hit := await self.from_hot(query, key)) is not None:
            return hit
        # Callers that miss the same answer in the hot tier share one read of history.
        now = self.clock()
        return await self.coalescer.run(
            f"{now.isoformat(timespec='seconds')} {key}", lambda _notify: self.from_history(query, now)
        )

    async def from_hot(self, query: CanonicalQuery, key: str) -> Hit | None:
        """Return the answer if the hot tier holds it; refresh it in the background if the tier picks this reader for that.

        Args:
            query: The query.
            key: Its key in the hot tier, which the caller has computed already.
        """
        entry = await self.hot.get_entry(key)
        if entry is None:
            return None
        if entry.is_refresh_due:
            self.coalescer.run_in_background(key, lambda: self.from_history(query, self.clock()))
        return Hit(entry.answer, AnswerSource.hot)

    async def from_history(self, query: CanonicalQuery, as_of: datetime, *, final_only: bool = False) -> Hit | Miss:
        """Render and cache the answer if history holds all of it; otherwise return the plan to fetch what is missing.

        Args:
            query: The query.
            as_of: The time as of which figures must be fresh.
            final_only: Whether provisional figures count as missing, however fresh they are.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        plan, stored = await self.planner.plan_with_stored(query, as_of, final_only=final_only)
        if plan.to_fetch:
            return Miss(plan, stored)
        return Hit(await self.render_and_cache(plan), AnswerSource.history)

    async def stale(self, miss: Miss, allowance: timedelta) -> Hit | None:
        """Return an answer with figures that are older than they may be by at most an allowance; None if there is none."""
        plan = miss.stored.plan(self.clock() - allowance)
        return None if plan.to_fetch else Hit(await self.render_and_cache(plan), AnswerSource.history)

    async def render_and_cache(self, plan: Plan) -> Answer:
        """Render the answer of a plan that needs no fetch, and write it to the hot tier.

        Raises:
            AnswerTooLarge: It has more rows or bytes than allowed.
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
        limits = self.limits
        rows = await self.planner.read_rows(plan, limits.rows if limits else None)
        if limits is not None:
            limits.check_rows(query, rows.num_rows)
        answer = await asyncio.to_thread(render, query, rows, completeness)
        if limits is not None:
            limits.check_bytes(query, len(answer.body))
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
            (query, await asyncio.to_thread(render, query, rows.within(interval).to_table(), completeness))
            for interval in intervals
            if (completeness := rule.completeness_of(coverage, interval)) is not None
            and (query := CanonicalQuery(series, interval))
        ]
