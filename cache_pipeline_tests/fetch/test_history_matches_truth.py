"""Tests that history is never wrong and eventually complete, even if the vendor truncates, delays or aborts answers.

The test uses a real PostgreSQL and Redis and a scripted vendor whose true rows are known: nights without a call, rows that arrive
until the watermark has passed, a limit on every answer, some answers truncated at random, and callers that die at any of their
requests. Killed processes are tested in ``test_crashes``.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import count, pairwise
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.errors import UpstreamUnreachable
from cache_pipeline.fetch import series_knowledge
from cache_pipeline.fetch.chunk_states import IncompleteAnswer
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, rows_to_table, sort_rows
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import Knowledge
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import Settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.upstream.polling.guide_schedule import GuideSchedule
from cache_pipeline.upstream.polling.poller import JobPoller
from cache_pipeline.vendors.base import ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.fetch.scripted_vendor import HOUR, MONDAY, SCHEMA, hours
from cache_pipeline_tests.query.declared import declared

REPORT = declared(
    time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=6, ttl="PT30M", max_query_interval="P1D"
)
SPAN = hours(0, 48)
_PAGE = 7
_LATEST = 2
_tenants = count()


@dataclass
class Clock:
    """A clock that advances only when a step says so."""

    hour: float = 20

    def __call__(self) -> datetime:
        return MONDAY + self.hour * HOUR


@dataclass(eq=False)
class Vendor(ReportDataAdapter):
    """A vendor with jobs that answers from the rows that had arrived when the query was sent.

    Attributes:
        groups: The number of groups of each hour since Monday.
        cap: The number of rows of its longest answer, or None.
        broken: The answers, by number, that lose their end at random, and the share that remains.
        dies: The number of the request at which the caller dies, and how; or None.
    """

    name: ClassVar[str] = "reportdata"
    groups: list[int]
    cap: int | None
    broken: Mapping[int, float]
    clock: Clock
    dies: tuple[int, str] | None = None
    requests: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _jobs: dict[str, tuple[pa.Table, datetime]] = field(default_factory=dict[str, tuple[pa.Table, datetime]])

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        return ()

    async def _requested(self) -> None:
        self.requests += 1
        if self.dies is not None and self.requests == self.dies[0]:
            if self.dies[1] == "unreachable":
                raise UpstreamUnreachable(host="vendor", reason="the connection broke")
            self.reached.set()
            await asyncio.Event().wait()

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        await self._requested()
        number = len(self._jobs)
        rows = sort_rows(self.rows(interval, self.clock.hour)).slice(0, self.cap)
        # An interval too short to be split is never truncated at random, because that cannot be detected.
        if number in self.broken and interval.length > 4 * HOUR and rows.num_rows > 1:
            rows = rows.slice(0, 1 + int(self.broken[number] * (rows.num_rows - 1)))
        self._jobs[str(number)] = rows, self.watermark
        return VendorJob(str(number), "client", lane)

    async def status(self, job: VendorJob) -> VendorJobStatus:
        await self._requested()
        return VendorJobStatus(is_done=True)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        rows, watermark = self._jobs[job.id]
        for start in range(0, max(1, rows.num_rows), _PAGE):
            await self._requested()
            yield ResultPage(rows.slice(start, _PAGE), watermark)

    @property
    def watermark(self) -> datetime:
        return MONDAY + int(self.clock.hour - _LATEST) * HOUR

    def rows(self, interval: Interval, now: float = 1000) -> pa.Table:
        """Return the rows that have arrived by an hour; by default all of them."""
        found: list[dict[str, object]] = []
        for bucket in list_buckets(interval, REPORT.step, REPORT.zone):
            hour = (bucket.start - MONDAY) // HOUR
            for n in range(self.groups[hour]):
                arrived = hour + 1 + (hour + n) % (2 * _LATEST + 1) / 2
                if hour < now:
                    seen = 10 * n + hour if arrived <= now else 1
                    group = {"queue_id": f"q{n}", "offered": seen}
                    # While rows are still arriving, every other group is missing.
                    if arrived <= now or n % 2:
                        found.append({"interval_start": bucket.start, "interval_end": bucket.end, **group})
        return rows_to_table(found, SCHEMA)


@contextmanager
def reader(url: str, series: Series, columns: tuple[Column, ...], vendor: Vendor) -> Iterator[list[str]]:
    """Read history in a thread, and collect every interval that is marked final with wrong rows."""
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        with open_history(url) as history:
            while not over.is_set():
                wrong.extend(
                    f"{part} was marked final with wrong rows"
                    for part in history.coverage(series).final & IntervalSet([SPAN])
                    if not history.read(series, part, columns).equals(sort_rows(vendor.rows(part)))
                )
                time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


async def step(service: ReportService, vendor: Vendor, interval: Interval, dies: tuple[int, str] | None) -> None:
    """Run one caller, which may die at one of its requests."""
    vendor.dies = dies and (vendor.requests + dies[0], dies[1])
    vendor.reached.clear()
    asking = asyncio.create_task(service.answer(REPORT, interval))
    dying = asyncio.create_task(vendor.reached.wait())
    await asyncio.wait([asking, dying], return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    # This cancels a caller that is waiting; it does not affect one that has finished.
    asking.cancel()
    vendor.dies = None
    await asyncio.gather(asking, dying, return_exceptions=True)
    if not asking.cancelled() and (error := asking.exception()):
        assert isinstance(error, UpstreamUnreachable | IncompleteAnswer), repr(error)


async def live(config: Settings, vendor: Vendor, steps: Iterable[Any]) -> None:
    """Run some callers one after another, and finally one for the whole interval with a healthy vendor."""
    async with open_service(config) as opened, open_redis(config.required_redis_url()) as redis:
        job_pollers = {"reportdata/main": JobPoller(guide=GuideSchedule(0.002, 0.01))}
        service = replace(opened, accounts={"reportdata/main": vendor}, clock=vendor.clock, job_pollers=job_pollers)
        series, columns = service.series(REPORT), service.columns(REPORT)
        with reader(config.required_postgres_url(), series, columns, vendor) as wrong:
            for later, first, length, dies in steps:
                vendor.clock.hour += later
                interval = hours(first, min(first + length, 48))
                if interval.start < vendor.clock():
                    await step(service, vendor, interval, dies)
            # Never back: figures from a later time would not be old enough for a second look.
            vendor.clock.hour = max(vendor.clock.hour, 48 + _LATEST) + 1
            vendor.broken = {}
            await service.answer(REPORT, SPAN)
            # What history contradicts becomes final when a second look agrees, an hour later.
            vendor.clock.hour += 1
            await redis.flushall()
            await service.answer(REPORT, SPAN)
        assert wrong == []
        assert service.history.read(series, SPAN, columns).equals(sort_rows(vendor.rows(SPAN)))
        assert service.history.coverage(series).final.covers(SPAN)


HOURS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 6), min_size=24, max_size=24),
        st.tuples(st.integers(1, 12), st.integers(13, 24), st.integers(1, 6)).map(
            lambda day: [day[2] if day[0] <= hour < day[1] else 0 for hour in range(24)]
        ),
    ),
    min_size=2,
    max_size=2,
).map(lambda days: [*days[0], *days[1]])
#: Never two in a row, because an answer and the one it is compared with must not break off alike.
BROKEN = st.dictionaries(st.integers(0, 25), st.floats(0, 0.99), max_size=4).map(
    lambda drawn: {n: drawn[n] for before, n in pairwise([-2, *sorted(drawn)]) if n - before > 1}
)
DEATHS = st.none() | st.tuples(st.integers(1, 12), st.sampled_from(["unreachable", "killed"]))
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0.6, 3, 9]), st.integers(0, 47), st.integers(1, 48), DEATHS), min_size=1, max_size=5
)


@pytest.fixture
def config(postgres_database: str, redis_database: str) -> Settings:
    """Return settings of servers with the report's table; each example uses its own tenant."""
    given = Settings(postgres_url=SecretStr(postgres_database), redis_url=SecretStr(redis_database))
    migrate_history(given, {REPORT.name: REPORT})
    return given


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOURS, st.none() | st.integers(6, 60), BROKEN, STEPS)
# A job is abandoned while its last hour was still arriving, and is resumed a day later.
@example([3] * 48, None, {}, [(0, 0, 19, (2, "unreachable"))])
# A job is abandoned whose answer broke off after the only row of a quiet hour.
@example([*[0] * 3, 1, *[0] * 19, 3] + [3] * 24, None, {0: 0.0}, [(9, 0, 24, (2, "unreachable"))])
def test_history_is_always_true_and_finally_complete(
    config: Settings,
    monkeypatch: pytest.MonkeyPatch,
    groups: list[int],
    cap: int | None,
    broken: dict[int, float],
    steps: list[Any],
):
    monkeypatch.setattr(series_knowledge, "Knowledge", partial(Knowledge, shortest_limit=1))
    alone = config.model_copy(update={"tenant": f"truth{next(_tenants)}"})
    vendor = Vendor(groups, cap, broken, Clock())
    asyncio.run(asyncio.wait_for(live(alone, vendor, steps), 60))
