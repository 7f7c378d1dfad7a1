"""A scripted vendor that answers from known rows and silently truncates long answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from cache_pipeline.aio import gather_or_cancel
from cache_pipeline.errors import UpstreamError
from cache_pipeline.fetch.chunk_states import EarlierRows, Failed, Locked, Submitted, Verified, refusal_result
from cache_pipeline.fetch.series_knowledge import SeriesKnowledge
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.fetch.verified_rows import VerifiedRows
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.completeness import MIN_TRUNCATION_ROWS, ChunkResult, RowDensity, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, sort_rows, to_arrow_schema
from cache_pipeline.query.verification import Knowledge
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.query.declared import declared

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
REPORT = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=10)
SCHEMA = to_arrow_schema(
    (Column("queue_id", ColumnKind.dimension, nullable=True), Column("offered", ColumnKind.integer))
)


def hours(first: float, last: float) -> Interval:
    """Return an interval in hours since Monday, without the last hour."""
    return Interval(MONDAY + first * HOUR, MONDAY + last * HOUR)


@dataclass
class ScriptedVendor:
    """A vendor that answers from known numbers of groups by hour.

    Attributes:
        groups: The number of groups of each hour since Monday; later hours have none.
        cap: The number of rows of its longest answer, or None.
        cut_by_group: Whether the last groups are truncated, not the last hours.
        watermark: In hours since Monday; after it only every other group is visible yet.
        refuse: Returns the error to raise for an interval, or None.
        seconds: How long it takes to answer.
    """

    groups: Mapping[int, int]
    cap: int | None = None
    watermark: float = 1000
    cut_by_group: bool = False
    refuse: Callable[[Interval], Exception | None] = lambda _interval: None
    seconds: float = 0
    asked: list[Interval] = field(default_factory=list[Interval])
    in_flight: int = 0

    async def ask(self, interval: Interval) -> VendorResponse:
        """Answer one query."""
        self.asked.append(interval)
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        if error := self.refuse(interval):
            raise error
        rows = sort_rows(self.rows(interval))
        if self.cut_by_group:
            rows = rows.sort_by("queue_id")
        return VendorResponse(
            interval,
            Rows.from_table(rows.slice(0, self.cap)),
            MONDAY + self.watermark * HOUR,
            MONDAY + 2000 * HOUR,
            3,
            0.5,
        )

    def rows(self, interval: Interval) -> pa.Table:
        """Return the rows of an answer without truncation."""
        found: list[dict[str, object]] = []
        for bucket in list_buckets(interval, REPORT.step, REPORT.zone):
            hour = (bucket.start - MONDAY) // HOUR
            step = 1 if hour + 1 <= self.watermark else 2
            found.extend(
                {
                    "interval_start": bucket.start,
                    "interval_end": bucket.end,
                    "queue_id": f"q{n:02}",
                    "offered": hour + n,
                }
                for n in range(0, self.groups.get(hour, 0), step)
            )
        return rows_to_table(found, SCHEMA)


@dataclass
class CheckedVendor:
    """A vendor whose answers are verified, without any store.

    Attributes:
        vendor: The vendor.
        knowledge: What is known of the series.
        results: The verdicts, in the order in which they were reported.
        ask: Sends a query; by default to the vendor.
    """

    vendor: ScriptedVendor
    knowledge: SeriesKnowledge
    results: list[ChunkResult]
    ask: Callable[[Interval], Awaitable[VendorResponse]]

    async def verify(self, interval: Interval, earlier: EarlierRows | None = None) -> VerifiedRows:
        """Verify one interval."""
        locked = Locked(interval, IntervalSet([interval]), earlier=earlier or EarlierRows())
        state = locked.choose(self.knowledge.current, lambda _job: True)
        reported: set[tuple[Interval, Verdict]] = set()
        while isinstance(state, Submitted):
            received = state.receive(await gather_or_cancel(self._try(query) for query in state.queries))
            state, results = received.judge(self.knowledge.current)
            self._report(each for each in results if (each.interval, each.verdict) not in reported)
            reported.update((each.interval, each.verdict) for each in results)
        if isinstance(state, Failed):
            raise state.error
        assert isinstance(state, Verified)
        self.knowledge.learn_rows(state)
        return state.rows

    async def _try(self, interval: Interval) -> VendorResponse | UpstreamError:
        try:
            return await self.ask(interval)
        except UpstreamError as error:
            if not error.may_be_too_large:
                raise
            if error.is_too_large:
                self._report([refusal_result(interval)])
            return error

    def _report(self, results: Iterable[ChunkResult]) -> None:
        fresh = list(results)
        self.knowledge.learn_results(fresh)
        self.results.extend(fresh)

    @property
    def verdicts(self) -> list[Verdict]:
        """In the order in which they were reported."""
        return [result.verdict for result in self.results]

    @property
    def stats(self) -> TruncationStats:
        """What was learned of the lengths of answers."""
        return self.knowledge.stats

    @stats.setter
    def stats(self, stats: TruncationStats) -> None:
        self.knowledge.current = replace(self.knowledge.current, stats=stats)


def check_answers_of(
    vendor: ScriptedVendor, report: Report = REPORT, min_truncation_rows: int = MIN_TRUNCATION_ROWS
) -> CheckedVendor:
    """Verify a vendor's answers, knowing only the declaration."""
    density = RowDensity(report.zone, report.expected_groups_per_bucket())
    known = SeriesKnowledge(Knowledge(report, density, shortest_limit=min_truncation_rows))
    return CheckedVendor(vendor, known, [], vendor.ask)


def flat(groups: int, last: int = 24) -> dict[int, int]:
    """Return the same number of groups for every hour."""
    return dict.fromkeys(range(last), groups)


def sorted_table(rows: Rows) -> pa.Table:
    """All of them, in the order in which equal rows are equal tables."""
    return sort_rows(rows.to_table())
