"""Looks up what a plan is made from, and brings together the rows that it says are held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import out_of_reach
from cache_pipeline.query.rollup import roll_up
from cache_pipeline.query.schema import Column, arrow_schema, in_order
from cache_pipeline.query.series import Query, Series
from cache_pipeline.service.plan import Borrowed, Cost, Holding, Plan, Room, may_be_made_of, plan
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.telemetry.spans import note, span


@dataclass(frozen=True)
class Planner:
    """Plans over history.

    Attributes:
        history: the tier.
        columns: of a report's answers.
        declared: the reports whose rows may be rolled up to another's.
        tenant: whose data.
        reach: of a report's vendor: the instant before which it keeps nothing, or None.
    """

    history: History
    columns: Callable[[Report], tuple[Column, ...]]
    declared: Sequence[Report]
    tenant: str
    reach: Callable[[Report], datetime | None]

    async def plan(self, query: Query, now: datetime, room: Room | None = None) -> Plan:
        """How a query would be answered as of now.

        Other series are looked at only where the query's own lacks something.

        Raises:
            InvalidInterval: something is held by nobody any more.
        """
        with span("plan", report=query.kept.report.report, interval=str(query.span)) as current:
            kept = await self._holding(query.kept, query.span)
            found = plan(query, kept, (), now, room=room)
            if found.due:
                found = plan(query, kept, await self._others(query), now, room=room)
            note(current, due=bool(found.due))
            return self._within_reach(found)

    async def costed(self, query: Query, now: datetime, room: Room | None) -> Plan:
        """The same, with what its upstream queries have taken before.

        Raises:
            InvalidInterval: as ``plan`` does.
        """
        kept = await self._holding(query.kept, query.span)
        others = await self._others(query)
        learned = await asyncio.to_thread(self.history.chunk_cost, query.kept)
        return self._within_reach(plan(query, kept, others, now, Cost(*learned) if learned else None, room))

    def _within_reach(self, found: Plan) -> Plan:
        report = found.query.kept.report
        if (refused := out_of_reach(report, found.due, self.reach(report))) is not None:
            raise refused
        return found

    async def rows(self, found: Plan) -> pa.Table:
        """The rows that answer a query whose plan asks the vendor for nothing."""
        query, report = found.query, found.query.kept.report
        borrowed = [rows for each in found.borrowed for rows in await self._rolled_up(each, report)]
        own = IntervalSet([query.span])
        for each in found.borrowed:
            own -= each.intervals
        held = [await self._read(query.kept, part) for part in own]
        tables = [*held, *borrowed]
        rows = tables[0] if len(tables) == 1 else in_order(pa.concat_tables(tables))
        if query.made_of is None:
            return rows
        asked = query.series.report
        return roll_up(rows, report, asked, self.columns(asked), query.interval)

    async def _rolled_up(self, borrowed: Borrowed, report: Report) -> list[pa.Table]:
        source = borrowed.holding.report
        columns, series = self.columns(report), Series(source, self.tenant)
        return [
            roll_up(await self._read(series, part), source, report, columns, part) for part in borrowed.intervals
        ] or [arrow_schema(columns).empty_table()]

    async def _read(self, series: Series, interval: Interval) -> pa.Table:
        return await asyncio.to_thread(self.history.read, series, interval, self.columns(series.report))

    async def _holding(self, series: Series, span: Interval) -> Holding:
        coverage = await asyncio.to_thread(self.history.coverage, series, span)
        return Holding(series.report, self.columns(series.report), coverage)

    async def _others(self, query: Query) -> list[Holding]:
        kept = query.kept.report
        found = {
            Series(report, self.tenant): columns
            for report in self.declared
            # Of another vendor's columns nothing can be said where that has no account.
            if (report.platform, report.query_type) == (kept.platform, kept.query_type)
            and may_be_made_of(kept, report, columns := self.columns(report))
        }
        if not found:
            return []
        coverages = await asyncio.to_thread(self.history.coverages, list(found), query.span)
        return [Holding(each.report, columns, coverages[each.id]) for each, columns in found.items()]
