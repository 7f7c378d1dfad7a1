"""Plans queries over the stores: reads what history holds, has `plan` decide, and reads the rows that a plan names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import RetentionLimit, retention_error
from cache_pipeline.query.rollup import roll_up
from cache_pipeline.query.schema import Column, sort_rows, to_arrow_schema
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.plan import Cost, Plan, RolledUpPart, StoredParts, StoredSeries, can_roll_up
from cache_pipeline.storage.ports.history import History
from cache_pipeline.telemetry.spans import annotate, span


@dataclass(frozen=True)
class Planner:
    """Reads coverage from history, plans queries over it, and reads the rows that a plan names.

    Attributes:
        history: The tier that holds rows and coverage.
        columns: Returns the columns of a report.
        declared: The reports whose rows may be rolled up to another's.
        tenant: The tenant whose data it reads.
        retention_limit: Returns the instant before which a report or its vendor keeps nothing, or None.
    """

    history: History
    columns: Callable[[Report], tuple[Column, ...]]
    declared: Sequence[Report]
    tenant: str
    retention_limit: Callable[[Report], RetentionLimit | None]

    async def plan(self, query: CanonicalQuery, now: datetime, *, final_only: bool = False) -> Plan:
        """Plan how to answer a query as of now.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        return (await self.plan_with_stored(query, now, final_only=final_only))[0]

    async def plan_with_stored(
        self, query: CanonicalQuery, now: datetime, *, final_only: bool = False
    ) -> tuple[Plan, StoredParts]:
        """Plan like ``plan``, and return also what was read for it: one query, and a second one if something is missing.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        with span("plan", report=query.source_series.report.name, interval=str(query.available_interval)) as current:
            own = await self._read_coverage(query.source_series, query.available_interval)
            # Metrics that the query does not name need not be stored yet, but what is fetched is fetched for all of them.
            named = replace(own, coverage=own.coverage.of_metrics(query.series.report.metrics))
            stored = StoredParts(query, named)
            plan = stored.plan(now, final_only=final_only)
            if plan.to_fetch and named != own:
                stored = StoredParts(query, own)
                plan = stored.plan(now, final_only=final_only)
            if plan.to_fetch:
                stored = await self._add_other_series(stored)
                plan = stored.plan(now, final_only=final_only)
            annotate(current, due=bool(plan.to_fetch))
            return self._check_retention(plan), stored

    def _check_retention(self, plan: Plan) -> Plan:
        report = plan.query.source_series.report
        if (error := retention_error(report, plan.to_fetch, self.retention_limit(report))) is not None:
            raise error
        return plan

    async def read_rows(self, plan: Plan, max_rows: int | None = None) -> pa.Table:
        """Read the rows that answer a query whose plan fetches nothing.

        Args:
            plan: The plan.
            max_rows: Stop reading beyond so many rows. Rows that are rolled up to fewer are all read.
        """
        query, report = plan.query, plan.query.source_series.report
        rolled_up = [rows for each in plan.rolled_up for rows in await self._read_rolled_up(each, report)]
        own_intervals = IntervalSet([query.available_interval])
        for each in plan.rolled_up:
            own_intervals -= each.intervals
        limit = max_rows if query.rollup_source is None else None
        own = [await self._read(query.source_series, part, limit) for part in own_intervals]
        tables = [*own, *rolled_up]
        rows = tables[0] if len(tables) == 1 else sort_rows(pa.concat_tables(tables))
        if query.rollup_source is None:
            return rows
        target = query.series.report
        return roll_up(rows, report, target, self.columns(target), query.interval)

    async def _read_rolled_up(self, part: RolledUpPart, target: Report) -> list[pa.Table]:
        source = part.source.report
        columns, series = self.columns(target), Series(source, self.tenant)
        return [
            roll_up(await self._read(series, interval), source, target, columns, interval)
            for interval in part.intervals
        ] or [to_arrow_schema(columns).empty_table()]

    async def _read(self, series: Series, interval: Interval, max_rows: int | None = None) -> pa.Table:
        columns = self.columns(series.report)
        return await asyncio.to_thread(self.history.read, series, interval, columns, max_rows=max_rows)

    async def _read_coverage(self, series: Series, interval: Interval) -> StoredSeries:
        coverage = await asyncio.to_thread(self.history.coverage, series, interval)
        return StoredSeries(series.report, self.columns(series.report), coverage)

    async def _add_other_series(self, stored: StoredParts) -> StoredParts:
        """Read, in one query, the other series that may be rolled up, and the cost of an upstream query."""
        query, target = stored.query, stored.query.source_series.report
        usable = {
            Series(report, self.tenant).with_metrics(target.metrics): columns
            for report in self.declared
            # The columns of another vendor's report are unknown without an account, so it is not asked for them.
            if (report.account_id, report.query_type) == (target.account_id, target.query_type)
            and can_roll_up(target, report, columns := self.columns(report))
        }
        coverages, measured = await asyncio.to_thread(
            self.history.coverages_with_cost, list(usable), query.available_interval, cost_of=query.source_series
        )
        others = tuple(StoredSeries(each.report, columns, coverages[each.id]) for each, columns in usable.items())
        return replace(stored, others=others, cost=Cost(*measured) if measured else None)
