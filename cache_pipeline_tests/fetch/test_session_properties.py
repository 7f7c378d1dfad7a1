"""Random scenarios of whole fetch sessions: each ends, and nothing that is final is ever wrong.

The vendor truncates, refuses, is late, answers nothing for a moment, and processes die; the stores are those in memory.
`SCENARIOS=125` in the environment runs 500 of each kind instead of 32.
"""

import asyncio
import os
import random
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pytest

from cache_pipeline.errors import CachePipelineError, UpstreamFaulted, UpstreamJobGone, UpstreamRefused
from cache_pipeline.fetch.fetch_session import FetchSession
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.fetch.persist import store_verified
from cache_pipeline.fetch.write_events import ignore_stored
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, sort_rows, to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline_tests.fetch.scripted_vendor import HOUR, MONDAY, hours
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.memory import MemoryHistory, MemoryLedger, MemoryServer, MemorySingleFlight

DAYS = 3
WEEK = hours(0, 24 * DAYS)
COLUMNS = (Column("queue_id", ColumnKind.dimension, nullable=True), Column("offered", ColumnKind.integer))
SCHEMA = to_arrow_schema(COLUMNS)
#: A limit in bytes leaves room for at least as many rows as the same limit in rows.
LONGEST_ROW_BYTES = 60
#: A scenario that needs more rounds than this does not end.
MAX_ROUNDS = 20


@dataclass
class Clock:
    """A clock that moves only between rounds."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Vendor:
    """A vendor with a random character.

    Attributes:
        report: The declaration.
        clock: The current time.
        groups: The number of groups of each hour since Monday.
        limit: The number of rows, or in order `bytes` of bytes, of its longest answer; None if it truncates nothing.
        order: What a truncated answer keeps: the first hours, the first groups, or as many bytes as fit.
        row_bytes: The size of a row on each day, for a limit in bytes.
        refuses_longer_than: The longest interval that it accepts, or None.
        late_by: How long after its end an hour is complete.
        empty: The numbers of the queries that it answers with nothing, though there are rows: a moment, not several.
        faults: The numbers of the queries that fail for another reason.
        lost: The numbers of the jobs that it loses.
    """

    report: Report
    clock: Clock
    groups: list[int]
    limit: int | None = None
    order: str = "time"
    row_bytes: tuple[int, ...] = (LONGEST_ROW_BYTES,) * DAYS
    refuses_longer_than: timedelta | None = None
    late_by: timedelta = timedelta(0)
    empty: frozenset[int] = frozenset()
    faults: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    jobs: dict[str, tuple[Interval, datetime, bool]] = field(default_factory=dict[str, tuple[Interval, datetime, bool]])
    answered: set[Interval] = field(default_factory=set[Interval])
    queries: int = 0

    name = "scripted"
    capabilities = Capabilities(100, 60.0, has_remaining_header=False)

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        return COLUMNS

    @staticmethod
    def end_column(report: Report) -> str | None:
        return None

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        self.queries += 1
        number = self.queries
        await asyncio.sleep(0)
        if self.refuses_longer_than is not None and interval.length > self.refuses_longer_than:
            raise UpstreamRefused(status=413, method="POST", path="/query", message="payload too large")
        if number in self.faults:
            raise UpstreamFaulted(
                status=503, method="POST", path="/query", attempts=5, message=None, correlation_id=None
            )
        assert interval not in self.answered, f"{interval} is asked for again in one session"
        job = VendorJob(f"job-{number}", "client", lane)
        self.jobs[job.id] = interval, self.clock.at, number in self.empty
        if number in self.lost:
            del self.jobs[job.id]
        return job

    async def status(self, job: VendorJob) -> VendorJobStatus:
        await asyncio.sleep(0)
        if job.id not in self.jobs:
            raise UpstreamJobGone(job.id, "unknown job")
        return VendorJobStatus(is_done=True)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        interval, asked_at, is_empty = self.jobs[job.id]
        self.answered.add(interval)
        rows = self.visible(interval, asked_at)
        watermark = asked_at - self.late_by
        kept = SCHEMA.empty_table() if is_empty else self.truncate(rows)
        yield ResultPage(kept, watermark, size=sum(self.sizes(kept)))

    async def cancel(self, job: VendorJob) -> None:
        self.jobs.pop(job.id, None)

    def visible(self, interval: Interval, at: datetime) -> pa.Table:
        """Return the rows that the vendor has by some time; of an hour that is not complete, every other group."""
        rows: list[dict[str, Any]] = []
        for bucket in list_buckets(interval, self.report.step, self.report.zone):
            hour = (bucket.start - MONDAY) // HOUR
            step = 1 if bucket.end + self.late_by <= at else 2
            count = self.groups[hour] if 0 <= hour < len(self.groups) and bucket.start < at else 0
            rows += [
                {
                    "interval_start": bucket.start,
                    "interval_end": bucket.end,
                    "queue_id": f"q{n:03}",
                    "offered": hour + n,
                }
                for n in range(0, count, step)
            ]
        return sort_rows(rows_to_table(rows, SCHEMA))

    def truncate(self, rows: pa.Table) -> pa.Table:
        """Return what a silently limited answer keeps."""
        if self.limit is None:
            return rows
        if self.order == "group":
            rows = rows.sort_by([("queue_id", "ascending"), ("interval_start", "ascending")])
        if self.order == "bytes":
            return rows.slice(0, bisect_right(list(accumulate(self.sizes(rows))), self.limit))
        return rows.slice(0, self.limit)

    def sizes(self, rows: pa.Table) -> list[int]:
        """Return the size of each row."""
        return [self.row_bytes[(start - MONDAY).days] for start in rows["interval_start"].to_pylist()]


def scenario(dice: random.Random, order: str, *, is_declared: bool) -> Vendor:
    """Return a vendor with a random character; its limits are those that a proof must hold for."""
    most = dice.choice([3, 40, 90])
    shape = dice.choice(["flat", "day", "night", "noise"])
    groups = [
        {
            "flat": most,
            "day": most if 7 <= hour % 24 < 19 else dice.choice([0, 0, 1]),
            "night": dice.choice([0, 0, 0, 0, 1]),
            "noise": dice.randint(0, most),
        }[shape]
        for hour in range(24 * DAYS)
    ]
    report = declared(
        time_zone="UTC", group_by=["queueId"], metrics=["offered"],
        expected_groups=max(1, max(groups)) if is_declared else None,
        max_query_interval=dice.choice(["P1D", "P1D", "PT6H", "P1W"]),
    )  # fmt: skip
    is_hurt = dice.random() < 0.5
    numbers = [frozenset(dice.sample(range(1, 30), dice.randint(0, 3))) if is_hurt else frozenset() for _ in range(2)]
    # Where history expects less than a row, a moment of empty answers cannot be told from a quiet hour.
    first_empty = dice.randint(1, 12) if dice.random() < 0.4 and shape == "flat" else None
    empty = frozenset(range(first_empty, first_empty + dice.randint(1, 8))) if first_empty else frozenset()
    row_bytes = tuple(dice.randint(30, LONGEST_ROW_BYTES) for _ in range(DAYS))
    limit = dice.choice([None, 1000, 1000, 1500, 2000])
    if order == "bytes" and limit is not None:
        limit *= LONGEST_ROW_BYTES
        # Also limits that one day meets and no other.
        days = [sum(groups[24 * n : 24 * n + 24]) * size for n, size in enumerate(row_bytes)]
        limit = max(1000 * LONGEST_ROW_BYTES, dice.choice([limit, *(size - dice.randint(1, 600) for size in days)]))
    return Vendor(
        report,
        Clock(WEEK.end + timedelta(minutes=dice.choice([0, 10, 120]))),
        groups,
        limit=limit,
        order=order,
        row_bytes=row_bytes,
        refuses_longer_than=dice.choice([None, None, None, timedelta(hours=12), timedelta(hours=5)]),
        late_by=dice.choice([timedelta(0), timedelta(minutes=10), timedelta(hours=2)]),
        empty=empty,
        faults=numbers[0],
        lost=numbers[1],
    )


async def run_round(vendor: Vendor, server: MemoryServer, partitions: dict[str, Interval], *, kill_after: int | None):
    """Run one session; with `kill_after` its process dies after so many turns of the event loop."""
    series, history = Series(vendor.report), MemoryHistory(server)
    stores_chunks = vendor.queries % 2 == 0
    vendor.answered.clear()

    async def priority() -> Priority:
        return Priority(Lane.scheduled)

    session = FetchSession(
        series=series,
        adapter=vendor,  # pyright: ignore[reportArgumentType]
        history=history,
        ledger=MemoryLedger(server),
        single_flight=MemorySingleFlight(server),
        clock=vendor.clock,
        poller=JobPoller(PollPolicy.guide, guide=GuideSchedule(0.0, 0.0)),
        priority=priority,
        stores_chunks=stores_chunks,
    )
    ended: set[str] = set()

    async def work() -> None:
        async for event in session.fetch(partitions):
            if isinstance(event, FailedPartition):
                assert isinstance(event.error, CachePipelineError), event.error
            if isinstance(event, FetchedPartition) and not stores_chunks:
                await store_verified(history, series, [event], (), ignore_stored)
            if isinstance(event, FetchedPartition | FailedPartition):
                assert event.key not in ended
                ended.add(event.key)

    task = asyncio.create_task(work())
    if kill_after is None:
        async with asyncio.timeout(20):
            await task
        assert ended == set(partitions)
        return
    for _ in range(kill_after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # Its locks and leases lapse.
    server.locks.clear()
    server.now += timedelta(minutes=1)


def check_final_rows(vendor: Vendor, server: MemoryServer) -> IntervalSet:
    """Hold everything that is final against the truth, and return it."""
    history, series = MemoryHistory(server), Series(vendor.report)
    final = history.coverage(series).final
    for part in final:
        truth = vendor.visible(part, WEEK.end + timedelta(days=365)).to_pylist()
        held = history.read(series, part, COLUMNS).to_pylist()
        assert held == truth, f"{part} lacks {[row for row in truth if row not in held][:5]}"
    return final


async def play(seed: str, order: str, *, is_declared: bool) -> None:
    """Fetch until everything is final; it must not take long, and no round may leave a wrong final row."""
    dice = random.Random(seed)
    vendor, server = scenario(dice, order, is_declared=is_declared), MemoryServer()
    partitions = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(DAYS)}
    for number in range(MAX_ROUNDS):
        kill_after = dice.randint(1, 200) if number < 2 and dice.random() < 0.3 else None
        await run_round(vendor, server, partitions, kill_after=kill_after)
        if check_final_rows(vendor, server).covers(WEEK):
            return
        if vendor.empty and vendor.queries >= min(vendor.empty):
            vendor.empty = frozenset()
        vendor.clock.at += timedelta(minutes=dice.choice([16, 60, 300, 26 * 60]))
        server.now += timedelta(hours=1)
    pytest.fail(
        f"{WEEK} is not final after {MAX_ROUNDS} rounds: {MemoryHistory(server).coverage(Series(vendor.report))}"
    )


@pytest.mark.parametrize("order", ["time", "group", "bytes"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["expected groups", "nothing declared"])
@pytest.mark.parametrize("batch", range(4))
async def test_every_scenario_ends_with_true_final_rows(order: str, *, is_declared: bool, batch: int):
    for number in range(int(os.environ.get("SCENARIOS", "8"))):
        try:
            await play(f"{order} {is_declared} {batch} {number}", order, is_declared=is_declared)
        except BaseException as error:
            error.add_note(f"scenario {order} {is_declared} {batch} {number}")
            raise
