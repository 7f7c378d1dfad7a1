"""Collects the rows of some intervals: from history what it holds, and from the vendor the rest, verified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.fetch.chunk_fetcher import ChunkFetcher
from cache_pipeline.fetch.chunk_pool import ChunkEvent, fetch_chunks
from cache_pipeline.fetch.chunk_states import ChunkOutcome, Failed, Stored
from cache_pipeline.fetch.gap_rule import GapRule
from cache_pipeline.fetch.partition_fetch import (
    FailedPartition,
    FetchedPartition,
    PartitionProgress,
    StoredRows,
    split_into_chunks,
)
from cache_pipeline.fetch.persist import store_verified
from cache_pipeline.fetch.series_knowledge import load_knowledge
from cache_pipeline.fetch.upstream_jobs import (
    CurrentPriority,
    HasOtherRequesters,
    QueryProgress,
    UpstreamJobs,
    no_other_requesters,
)
from cache_pipeline.fetch.verified_rows import VerifiedRows
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import RetentionLimit, clip_to_now, future_interval_error, retention_error
from cache_pipeline.query.schema import ColumnKind
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.ports.ledger import Ledger
from cache_pipeline.storage.ports.single_flight import SingleFlight
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter

#: What a fetch yields: a verdict on an answer, the vendor's progress on a query, and every partition once.
FetchEvent = ChunkResult | QueryProgress | FetchedPartition | FailedPartition


@dataclass(frozen=True)
class FetchSession:
    """Fetches rows of one series.

    Attributes:
        series: The series.
        adapter: The vendor's adapter.
        history: The tier that holds rows and coverage.
        ledger: The record of every upstream query.
        single_flight: Lets one process at a time fetch a gap.
        clock: The current time, in UTC.
        poller: Decides when to poll jobs.
        priority: Returns the priority of the next upstream request.
        retention_limit: The instant before which the report or the vendor keeps nothing, or None if there is none.
        refetch: Whether to fetch everything, whatever history holds.
        stores_chunks: Whether each chunk is written to history as soon as it is verified; otherwise the caller stores the
            partitions later.
        on_stored: Called with what was written to history.
        has_other_requesters: Whether a cancelled fetch is still wanted by another process.
        is_partial: Whether history holds other metrics of the same rows, which are not fetched.
    """

    series: Series
    adapter: VendorAdapter
    history: History
    ledger: Ledger
    single_flight: SingleFlight
    clock: Callable[[], datetime]
    poller: JobPoller
    priority: CurrentPriority
    retention_limit: RetentionLimit | None = None
    refetch: bool = False
    stores_chunks: bool = False
    on_stored: OnStored = ignore_stored
    has_other_requesters: HasOtherRequesters = no_other_requesters
    is_partial: bool = False

    @property
    def report(self) -> Report:
        """The report's declaration."""
        return self.series.report

    async def fetch(self, partitions: Mapping[str, Interval]) -> AsyncGenerator[FetchEvent]:
        """Yield every partition once, as soon as it is finished, and before that the verdicts and progress on the way.

        A partition that has not begun, or whose gaps the vendor no longer keeps, counts as failed. A failed chunk fails the
        partitions that overlap it and no others; what was verified of them is written to history. After a refusal that any
        other query would meet too, no further query is sent.

        Where history lacks only some metrics, these alone are fetched first, and are written to history as soon as they are
        verified, beside the figures that it holds.

        Args:
            partitions: Interval by partition key; its ends must be boundaries of the granularity.
        """
        coverage, failed = await self._read_coverage(), set[str]()
        rule = GapRule(self.report, self.clock(), self.refetch)
        if gaps := rule.partial_gaps(IntervalSet(partitions.values()), coverage):
            async with aclosing(self._fetch_missing_metrics(partitions, gaps)) as events:
                async for event in events:
                    if isinstance(event, FailedPartition):
                        failed.add(event.key)
                    yield event
            coverage = await self._read_coverage()
        remaining = {key: span for key, span in partitions.items() if key not in failed}
        async with aclosing(self._fetch_all_metrics(remaining, coverage)) as events:
            async for event in events:
                yield event

    async def _read_coverage(self) -> Coverage:
        return await asyncio.to_thread(self.history.coverage, self.series)

    async def _fetch_missing_metrics(
        self, partitions: Mapping[str, Interval], gaps: Iterable[tuple[tuple[str, ...], IntervalSet]]
    ) -> AsyncGenerator[FetchEvent]:
        """Fetch the metrics that history lacks where the others are final; yield the failed partitions and the progress."""
        failed = set[str]()
        for metrics, intervals in gaps:
            parts = {
                f"{key} {part}": (key, part)
                for key, span in partitions.items()
                if key not in failed
                for part in intervals & IntervalSet([span])
            }
            session = replace(self, series=self.series.with_metrics(metrics), stores_chunks=True, is_partial=True)
            async with aclosing(session.fetch({name: part for name, (_, part) in parts.items()})) as events:
                async for event in events:
                    if isinstance(event, FetchedPartition):
                        continue
                    if not isinstance(event, FailedPartition):
                        yield event
                        continue
                    key = parts[event.key][0]
                    if key not in failed:
                        failed.add(key)
                        yield FailedPartition(key, partitions[key], event.error)

    async def _fetch_all_metrics(
        self, partitions: Mapping[str, Interval], coverage: Coverage
    ) -> AsyncGenerator[FetchEvent]:
        """Fetch every metric of the session's series, as `fetch` does."""
        now = self.clock()
        plan = await self._plan(partitions, coverage, now)
        for refused in plan.refused:
            yield refused
        progress = PartitionProgress(plan.partitions, IntervalSet(plan.chunks), plan.stored)
        for finished in progress.finish_stored():
            yield finished
        if not plan.chunks:
            return
        knowledge = await load_knowledge(
            self.history,
            self.series,
            plan.coverage,
            IntervalSet(plan.partitions.values()),
            now,
            self.adapter.capabilities.shortest_query,
            self._metric_columns() if self.is_partial else (),
        )
        events: asyncio.Queue[ChunkEvent | None] = asyncio.Queue()
        verdicts: list[ChunkResult] = []
        async with UpstreamJobs(
            self.adapter,
            self.series,
            self.clock,
            self.ledger,
            self.poller,
            events.put_nowait,
            self.has_other_requesters,
        ) as jobs:
            fetcher = ChunkFetcher(
                series=self.series,
                adapter=self.adapter,
                history=self.history,
                single_flight=self.single_flight,
                jobs=jobs,
                knowledge=knowledge,
                gaps=GapRule(self.report, now, self.refetch),
                priority=self.priority,
                on_result=events.put_nowait,
                on_stored=self.on_stored if self.stores_chunks else None,
            )
            working = asyncio.create_task(fetch_chunks(fetcher, plan.chunks, events))
            try:
                while (event := await events.get()) is not None:
                    if isinstance(event, ChunkResult):
                        verdicts.append(event)
                    if isinstance(event, ChunkResult | QueryProgress):
                        yield event
                        continue
                    await self._record(verdicts)
                    for partition in await self._apply(event, fetcher, progress):
                        yield partition
                await working
            finally:
                await cancel_and_wait([working])

    async def _plan(self, partitions: Mapping[str, Interval], coverage: Coverage, now: datetime) -> _SessionPlan:
        report = self.report
        refused = [
            FailedPartition(key, span, future_interval_error(span))
            for key, span in partitions.items()
            if clip_to_now(span, report, now) is None
        ]
        begun = {key: span for key, span in partitions.items() if clip_to_now(span, report, now) is not None}
        requested = IntervalSet(begun.values())
        rule = GapRule(report, now, self.refetch)
        missing = IntervalSet(gap for each in requested for gap in rule.missing(each, coverage))
        gaps = IntervalSet(part for gap in missing if (part := clip_to_now(gap, report, now)))
        for key, span in list(begun.items()):
            if (error := retention_error(report, gaps & IntervalSet([span]), self.retention_limit)) is not None:
                refused.append(FailedPartition(key, span, error))
                del begun[key]
        held = requested - missing
        stored = StoredRows(
            held,
            held & coverage.provisional,
            await self._read_rows(held),
            coverage.watermark,
            coverage.provisional_fetched_at,
        )
        chunks = split_into_chunks(gaps & IntervalSet(begun.values()), report)
        return _SessionPlan(refused, begun, stored, chunks, coverage)

    def _metric_columns(self) -> list[str]:
        return [
            column.name
            for column in self.adapter.columns(self.report)
            if column.kind in (ColumnKind.integer, ColumnKind.number)
        ]

    async def _read_rows(self, intervals: IntervalSet) -> Rows:
        return await asyncio.to_thread(self.history.rows, self.series, intervals, self.adapter.columns(self.report))

    async def _record(self, verdicts: list[ChunkResult]) -> None:
        chunks = list(verdicts)
        verdicts.clear()
        if chunks:
            await asyncio.to_thread(self.history.record_chunks, self.series, chunks, self.clock())

    async def _apply(
        self, outcome: ChunkOutcome, fetcher: ChunkFetcher, progress: PartitionProgress
    ) -> Sequence[FetchedPartition | FailedPartition]:
        """Return the partitions that the outcome of a chunk finishes or fails."""
        if isinstance(outcome, Failed):
            failed, left = progress.fail(outcome.chunk, outcome.error)
            await self._keep(left)
            return failed
        if isinstance(outcome, Stored):
            rows = [outcome.rows]
        else:
            rows = [await fetcher.read_stored(part, await fetcher.read_coverage(part)) for part in outcome.stored]
        await self._keep(each for each in rows if progress.is_of_failed(each))
        return [partition for each in rows for partition in progress.add(each)]

    async def _keep(self, verified: Iterable[VerifiedRows]) -> None:
        """Write the verified rows of a failed partition to history, so that they are not fetched again."""
        if not self.stores_chunks:
            await store_verified(self.history, self.series, list(verified), (), self.on_stored)


@dataclass(frozen=True)
class _SessionPlan:
    """What a session yields at once, reads and fetches.

    Attributes:
        refused: Partitions that cannot be fetched.
        partitions: The others.
        stored: What history holds of them.
        chunks: The queries for what it lacks.
        coverage: Of the series.
    """

    refused: list[FailedPartition]
    partitions: Mapping[str, Interval]
    stored: StoredRows
    chunks: list[Interval]
    coverage: Coverage
