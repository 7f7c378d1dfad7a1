"""The stores in memory: a second implementation of the ports, for tests that need many runs and no server.

One `MemoryServer` stands for the servers that several processes share. Its clock counts leases, so a test can let them lapse.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pyarrow as pa

from cache_pipeline.query.completeness import MIN_TRUNCATION_ROWS, ChunkResult, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import INTERACTIVE, Priority
from cache_pipeline.query.schema import Column, sort_rows, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage, FetchTime, combine_coverages
from cache_pipeline.storage.ports.history import KnownThen, NewerDataPresent, Replacement
from cache_pipeline.storage.ports.ledger import (
    JobHandle,
    LeaseLost,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    OpenJob,
    QueryInFlight,
)
from cache_pipeline.storage.ports.single_flight import Flight, OnWait

_OPEN = (LedgerState.intent, LedgerState.ambiguous, LedgerState.submitted, LedgerState.ready)


@dataclass
class _Entry:
    id: int
    request: LedgerRequest
    state: LedgerState
    fence: int
    lease_until: datetime
    handle: JobHandle | None = None

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN


@dataclass
class _Snapshot:
    at: datetime
    rows: dict[tuple[object, ...], dict[str, Any]]
    final: dict[str, IntervalSet]


@dataclass
class _StoredSeries:
    #: By bucket and group; a figure that was never stored is missing.
    rows: dict[tuple[object, ...], dict[str, Any]] = field(default_factory=dict[tuple[object, ...], dict[str, Any]])
    #: By metric, with the times of everything that is stored.
    coverage: dict[str, Coverage] = field(default_factory=dict[str, Coverage])
    chunks: list[ChunkResult] = field(default_factory=list[ChunkResult])
    stats: TruncationStats = field(default_factory=TruncationStats)
    #: What was known after each change, the oldest first, since time travel began; with what was final by metric.
    snapshots: list[_Snapshot] = field(default_factory=list[_Snapshot])

    def take_snapshot(self, keep: timedelta | None) -> None:
        """Keep what is known now, if the report keeps that."""
        now, rows = datetime.now(UTC), {key: dict(row) for key, row in self.rows.items()}
        if keep is None:
            self.snapshots.clear()
        else:
            final = {metric: coverage.final for metric, coverage in self.coverage.items()}
            self.snapshots.append(_Snapshot(now, rows, final))

    def known_at(self, as_of: datetime) -> _Snapshot | None:
        """Return what was known at an instant; None before time travel began."""
        return next((each for each in reversed(self.snapshots) if each.at <= as_of), None)


@dataclass
class MemoryServer:
    """What the processes share.

    Attributes:
        now: The clock of the leases.
    """

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    series: dict[str, _StoredSeries] = field(default_factory=dict[str, _StoredSeries])
    entries: list[_Entry] = field(default_factory=list[_Entry])
    locks: dict[str, list[_Lock]] = field(default_factory=dict[str, list["_Lock"]])
    #: The session calls the stores in threads, and each call is one transaction.
    transaction: threading.RLock = field(default_factory=threading.RLock)

    def of(self, series: Series) -> _StoredSeries:
        """Return what is stored of a series."""
        return self.series.setdefault(series.id, _StoredSeries())

    def states(self) -> list[str]:
        """Return the state of every ledger entry, the oldest first."""
        return [entry.state.value for entry in self.entries]


Method = TypeVar("Method", bound=Callable[..., Any])


def transaction(method: Method) -> Method:
    """Let a method of a store run alone."""

    @functools.wraps(method)
    def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._server.transaction:
            return method(self, *args, **kwargs)

    return cast("Method", alone)


class MemoryHistory:
    """Rows and coverage of one server."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    @transaction
    def coverage(self, series: Series, interval: Interval | None = None) -> Coverage:
        stored, named = self._server.of(series), IntervalSet([interval] if interval else [])

        def known(metric: str) -> Coverage:
            coverage = stored.coverage.get(metric, Coverage())
            wanted = coverage.provisional | named
            times = sorted((each for each in coverage.fetch_times if each.intervals & wanted), key=lambda each: each.at)
            return replace(coverage, fetch_times=tuple(times), recheck_delay=series.report.freshness.recheck_delay)

        return combine_coverages({(metric,): known(metric) for metric in series.report.metrics})

    @transaction
    def coverages(self, series: Sequence[Series], interval: Interval | None = None) -> dict[str, Coverage]:
        return {each.id: self.coverage(each, interval) for each in series}

    @transaction
    def coverages_with_cost(
        self, series: Sequence[Series], interval: Interval | None = None, *, cost_of: Series
    ) -> tuple[dict[str, Coverage], tuple[float, float] | None]:
        chunks = self._server.of(cost_of).chunks[-50:]
        calls, seconds = sum(each.calls for each in chunks), sum(each.seconds for each in chunks)
        return self.coverages(series, interval), (calls / len(chunks), seconds / len(chunks)) if chunks else None

    @transaction
    def known_as_of(self, series: Series, interval: Interval, as_of: datetime) -> KnownThen:
        stored = self._server.of(series)
        known, final = stored.known_at(as_of), IntervalSet([interval])
        for metric in series.report.metrics:
            final &= known.final.get(metric, IntervalSet()) if known else IntervalSet()
        return KnownThen(final, stored.snapshots[0].at if stored.snapshots else None, datetime.now(UTC))

    @transaction
    def read(
        self,
        series: Series,
        interval: Interval,
        columns: Sequence[Column],
        as_of: datetime | None = None,
        max_rows: int | None = None,
    ) -> pa.Table:
        schema = to_arrow_schema(columns)
        absent = {each.name: None if each.nullable or pa.types.is_timestamp(each.type) else 0 for each in schema}
        figures = [each for each in schema if pa.types.is_integer(each.type) or pa.types.is_floating(each.type)]
        is_always_sent = bool(series.report.rows) or all(each.nullable for each in figures)
        rows = [
            {name: row.get(name) if row.get(name) is not None else absent[name] for name in schema.names}
            for row in self._rows_within(series, interval, as_of)
            if is_always_sent or any(row.get(each.name) is not None for each in figures)
        ]
        return sort_rows(pa.Table.from_pylist(rows, schema)).slice(0, None if max_rows is None else max_rows + 1)

    def _rows_within(self, series: Series, interval: Interval, as_of: datetime | None = None) -> list[dict[str, Any]]:
        stored = self._server.of(series)
        known = stored.known_at(as_of) if as_of else stored
        return [
            row
            for row in (known.rows.values() if known else ())
            if interval.start <= row["interval_start"] < interval.end
        ]

    @transaction
    def rows(self, series: Series, intervals: Iterable[Interval], columns: Sequence[Column]) -> Rows:
        parts = [self.read(series, each, columns) for each in intervals]
        return Rows.from_table(pa.concat_tables([to_arrow_schema(columns).empty_table(), *parts]))

    @transaction
    def replace(self, replacement: Replacement) -> None:
        stored = self._server.of(replacement.series)
        entries = {entry.id: entry for entry in self._server.entries}
        for claim in replacement.claims:
            if entries[claim.id].fence != claim.fence or not entries[claim.id].is_open:
                raise LeaseLost("another process has taken over the query that these rows answer")
        metrics, covered = replacement.series.report.metrics, replacement.covered
        for each in replacement.fetch_times:
            if newer := IntervalSet(
                part
                for coverage in (stored.coverage.get(metric, Coverage()) for metric in metrics)
                for known in coverage.fetch_times
                if known.at >= each.at
                for part in known.intervals
                & each.intervals
                & (each.intervals if known.at > each.at else replacement.final & coverage.provisional)
            ):
                raise NewerDataPresent(newer)
        _merge_rows(stored, replacement)
        for metric in metrics:
            stored.coverage[metric] = _extended(stored.coverage.get(metric, Coverage()), replacement)
        stored.take_snapshot(replacement.series.report.time_travel)
        held = {claim.id for claim in replacement.claims}
        for entry in self._server.entries:
            if entry.request.series.query_id != replacement.series.query_id or not covered & IntervalSet(
                [entry.request.interval]
            ):
                continue
            since = IntervalSet(
                part
                for each in stored.coverage[metrics[0]].fetch_times
                if each.at >= entry.request.requested_at
                for part in each.intervals
            )
            is_answered = (covered | since).covers(entry.request.interval)
            if entry.is_open and is_answered and (entry.id in held or entry.lease_until <= self._server.now):
                entry.state, entry.lease_until = LedgerState.stored, self._server.now

    @transaction
    def record_chunks(self, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
        del now
        stored = self._server.of(series)
        stored.chunks.extend(chunks)
        stored.stats = stored.stats.with_results(
            [each for each in chunks if not each.is_truncated or each.length >= MIN_TRUNCATION_ROWS]
        )

    @transaction
    def truncation_stats(self, series: Series, now: datetime) -> TruncationStats:
        del now
        return self._server.of(series).stats

    @transaction
    def reopen(self, series: Series, ended: Sequence[tuple[Interval, str]], end_column: str) -> IntervalSet:
        stored, key = self._server.of(series), to_snake_case(series.report.group_by[0])
        wanted = {(bucket.start, name) for bucket, name in ended}
        rows = stored.rows.values()
        buckets = IntervalSet(
            Interval(row["interval_start"], row["interval_end"])
            for row in rows
            if row.get(end_column) is None and (row["interval_start"], row[key]) in wanted
        )
        for metric, coverage in stored.coverage.items():
            stored.coverage[metric] = replace(
                coverage,
                final=coverage.final - buckets,
                provisional=coverage.provisional | (coverage.final & buckets),
            )
        stored.take_snapshot(series.report.time_travel)
        return buckets

    @transaction
    def groups_by_bucket(self, series: Series, interval: Interval, columns: Sequence[str] = ()) -> dict[datetime, int]:
        counts: Counter[datetime] = Counter()
        for row in self._rows_within(series, interval):
            counts[row["interval_start"]] += not columns or any(row.get(name) for name in columns)
        return dict(counts)

    @transaction
    def count_rows(self, series: Series) -> int:
        return len(self._server.of(series).rows)

    @transaction
    def totals_by_bucket(self, series: Series, interval: Interval, column: str | None) -> dict[datetime, float]:
        totals: Counter[datetime] = Counter()
        for row in self._rows_within(series, interval):
            totals[row["interval_start"]] += (row.get(column) or 0) if column else 1
        return dict(totals)


def _merge_rows(stored: _StoredSeries, replacement: Replacement) -> None:
    """Replace the figures of the series' metrics, keep those of others, and drop rows without any."""
    schema = replacement.rows.schema
    figures = [each.name for each in schema if pa.types.is_integer(each.type) or pa.types.is_floating(each.type)]
    keys = [name for name in schema.names if name not in figures and name != "interval_end"]
    for interval in replacement.covered:
        for key, row in list(stored.rows.items()):
            if interval.start <= row["interval_start"] < interval.end:
                kept = {name: value for name, value in row.items() if name not in figures}
                if all(value is None or not isinstance(value, int | float) for value in kept.values()):
                    del stored.rows[key]
                else:
                    stored.rows[key] = kept
    for row in replacement.rows.to_table().to_pylist():
        key = tuple(row[name] for name in keys)
        stored.rows[key] = {**stored.rows.get(key, {}), **row}


def _extended(coverage: Coverage, replacement: Replacement) -> Coverage:
    covered, looks = replacement.covered, replacement.second_looks
    times = [FetchTime(each.intervals - covered, each.at) for each in coverage.fetch_times]
    return Coverage(
        coverage.final - replacement.provisional | replacement.final,
        coverage.provisional - replacement.final | replacement.provisional,
        max((each for each in (coverage.watermark, replacement.watermark) if each is not None), default=None),
        tuple(_merged([each for each in [*times, *replacement.fetch_times] if each.intervals])),
        {
            reason: left
            for reason in SecondLook
            if (left := coverage.second_looks.get(reason, IntervalSet()) - covered | looks.get(reason, IntervalSet()))
        },
    )


def _merged(times: list[FetchTime]) -> list[FetchTime]:
    by_time: dict[datetime, IntervalSet] = {}
    for each in times:
        by_time[each.at] = by_time.get(each.at, IntervalSet()) | each.intervals
    return [FetchTime(intervals, at) for at, intervals in by_time.items()]


class MemoryLedger:
    """The ledger as one process sees it."""

    threads = None

    def __init__(self, server: MemoryServer, lease: timedelta = timedelta(seconds=15)) -> None:
        self._server, self.lease = server, lease

    @transaction
    def claim(self, request: LedgerRequest) -> LedgerClaim:
        superseded: JobHandle | None = None
        found = next(
            (
                entry
                for entry in self._server.entries
                if entry.is_open and entry.request.series.query_id == request.series.query_id
                and entry.request.interval == request.interval
            ),
            None,
        )  # fmt: skip
        if found is not None:
            if found.lease_until > self._server.now:
                raise QueryInFlight(f"{request.interval} is being queried by another process")
            found.fence += 1
            found.lease_until = self._server.now + self.lease
            if found.handle is not None and found.request.requested_at >= request.min_requested_at:
                return LedgerClaim(found.id, found.fence, request.interval, found.request.requested_at, found.handle)
            superseded = found.handle if found.state is LedgerState.submitted else None
            found.state = LedgerState.superseded if found.handle is not None else LedgerState.lost
        entry = _Entry(len(self._server.entries) + 1, request, LedgerState.intent, 1, self._server.now + self.lease)
        self._server.entries.append(entry)
        return LedgerClaim(entry.id, 1, request.interval, request.requested_at, superseded_job=superseded)

    @transaction
    def mark_submitted(self, claim: LedgerClaim, handle: JobHandle) -> None:
        entry = self._held(claim)
        if entry is None:
            raise LeaseLost(f"another process took over {claim.interval} before its handle was recorded")
        entry.state, entry.handle, entry.lease_until = LedgerState.submitted, handle, self._server.now + self.lease

    @transaction
    def mark_ready(self, claim: LedgerClaim) -> None:
        self._mark(claim, LedgerState.ready if claim.handle else LedgerState.answered)

    @transaction
    def mark_ambiguous(self, claim: LedgerClaim, detail: str) -> None:
        del detail
        self._mark(claim, LedgerState.ambiguous)

    @transaction
    def end(self, claim: LedgerClaim, state: LedgerState, detail: str | None = None) -> None:
        del detail
        self._mark(claim, state)

    @transaction
    def renew(self, claims: Iterable[LedgerClaim]) -> None:
        for claim in claims:
            if entry := self._held(claim):
                entry.lease_until = self._server.now + self.lease

    @transaction
    def release(self, claims: Iterable[LedgerClaim]) -> None:
        for claim in claims:
            if entry := self._held(claim):
                entry.lease_until = self._server.now

    @transaction
    def open_jobs(self, series: Series, interval: Interval) -> list[OpenJob]:
        found = [
            OpenJob(entry.request.interval, entry.request.requested_at, is_alive)
            for entry in self._server.entries
            if entry.is_open and entry.request.series.query_id == series.query_id and entry.request.interval.intersection(interval)
            and ((is_alive := entry.lease_until > self._server.now) or entry.handle is not None)
        ]  # fmt: skip
        return sorted(found, key=lambda job: (-job.interval.length, job.interval.start))

    @transaction
    def open_by_state(self) -> dict[LedgerState, int]:
        return dict(Counter(entry.state for entry in self._server.entries if entry.is_open))

    @transaction
    def _held(self, claim: LedgerClaim) -> _Entry | None:
        entry = self._server.entries[claim.id - 1]
        return entry if entry.fence == claim.fence and entry.is_open else None

    @transaction
    def _mark(self, claim: LedgerClaim, state: LedgerState) -> None:
        if entry := self._held(claim):
            entry.state, entry.lease_until = state, self._server.now


@dataclass(eq=False)
class _Lock:
    interval: Interval | None
    priority: Priority

    def overlaps(self, interval: Interval | None) -> bool:
        return self.interval is None or interval is None or self.interval.intersection(interval) is not None


class MemorySingleFlight:
    """Locks of one server; a waiter looks again whenever a lock is released, and after `look_seconds`."""

    def __init__(self, server: MemoryServer, look_seconds: float = 0.01) -> None:
        self._server, self._look_seconds = server, look_seconds
        self._released = asyncio.Event()
        self.on_wait: OnWait = _ignore_wait

    @asynccontextmanager
    async def acquire(
        self,
        name: str,
        is_done: Callable[[], Awaitable[bool]],
        interval: Interval | None = None,
        *,
        priority: Priority = INTERACTIVE,
    ) -> AsyncIterator[Flight | None]:
        locks = self._server.locks.setdefault(name, [])
        while blocking := [lock for lock in locks if lock.overlaps(interval)]:
            for lock in blocking:
                lock.priority |= priority
            await self._wait()
            if await is_done():
                yield None
                return
        own = _Lock(interval, priority)
        locks.append(own)

        async def current_priority() -> Priority:
            return own.priority

        try:
            yield Flight(current_priority)
        finally:
            locks.remove(own)
            self._released.set()

    async def wait_for_release(self, name: str, interval: Interval | None = None) -> None:
        del name, interval
        await self._wait()

    async def _wait(self) -> None:
        self._released.clear()
        try:
            async with asyncio.timeout(self._look_seconds):
                await self._released.wait()
        except TimeoutError:
            return


def _ignore_wait(seconds: float, *, is_whole: bool) -> None:
    del seconds, is_whole
