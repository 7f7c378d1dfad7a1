"""`sparse`: what it costs to verify reports with few rows, in queries of a first backfill of 90 days.

The vendor is a table of random calls. Ours runs the package's own rules, side by side as in a backfill, without stores. The
least is one query for each day: nothing is verified then. A day whose answer needs a second look is asked for once more later,
which is a row of its own.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.fetch.chunk_pool import ChunkEvent, fetch_chunks
from cache_pipeline.fetch.chunk_states import ChunkOutcome, Locked, Missing, Stored, Submitted, Verified
from cache_pipeline.fetch.series_knowledge import SeriesKnowledge
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.completeness import RowDensity
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema
from cache_pipeline.query.verification import Knowledge
from cache_pipeline.rows.rows import Rows

_DAYS, _QUEUES, _RUNS = 90, 40, 5
_FIRST = datetime(2026, 1, 5, tzinfo=UTC)
_DAY = timedelta(days=1)
_NOW = _FIRST + (_DAYS + 10) * _DAY
_COLUMNS = (Column("queue_id", ColumnKind.dimension), Column("offered", ColumnKind.integer))
_SCHEMA = to_arrow_schema(_COLUMNS)
_CALLS_A_NIGHT = 3.0

#: Number of calls by start of bucket and queue.
Calls = Counter[tuple[datetime, int]]


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: The rules kept rows that are not those of the vendor.
    """
    rows: list[Row] = []
    for what, generate in (("three calls a night", _three_calls_a_night), ("office hours", _office_hours)):
        for granularity in ("PT1H", "PT15M"):
            progress(f"{what}, {granularity}")
            runs = [_backfill(generate, granularity, seed) for seed in range(_RUNS)]
            mean = sum(run.queries for run in runs) / _RUNS
            rows.append(
                Row(
                    f"{what}, {granularity}, {_DAYS} days: queries, mean of {_RUNS}",
                    mean,
                    "queries",
                    limit=_DAYS,
                    target=Target("ratio", "<=", 1.5),
                )
            )
            again = sum(run.second_looks for run in runs) / _RUNS
            rows.append(Row(f"{what}, {granularity}: days that need a second look", again, "days"))
    return Result("sparse", tuple(rows))


def _report(granularity: str) -> Report:
    return Report.model_validate(
        {
            "name": "sparse",
            "description": "Offered by queue",
            "platform": "reportdata",
            "query_type": "queue-performance",
            "granularity": granularity,
            "group_by": ["queueId"],
            "metrics": ["offered"],
            "volume_metric": "offered",
            "partition": "day",
            "start": "2026-01-01",
            "fetch": {"max_query_interval": "P1D", "expected_groups": _QUEUES},
        }
    )


def _three_calls_a_night(dice: random.Random, step: timedelta) -> Calls:
    """Return calls of a line that is open at night: about three each night, from ten to six, to any queue."""
    calls: Calls = Counter()
    for day in range(_DAYS):
        opens = _FIRST + day * _DAY
        after = dice.expovariate(_CALLS_A_NIGHT)
        while after < 1:
            hour = after * 8
            # The night's last six hours come first in a calendar day.
            at = opens + timedelta(hours=hour if hour < 6 else hour + 16)
            calls[_floor(at, step), dice.randrange(_QUEUES)] += 1
            after += dice.expovariate(_CALLS_A_NIGHT)
    return calls


def _office_hours(dice: random.Random, step: timedelta) -> Calls:
    """Return calls to all queues on working days from eight to six, more to the first queues than to the last."""
    calls: Calls = Counter()
    for day in (day for day in range(_DAYS) if day % 7 < 5):
        for queue in range(_QUEUES):
            for _ in range(1200 // (queue + 2)):
                at = _FIRST + day * _DAY + timedelta(hours=8 + 10 * dice.random())
                calls[_floor(at, step), queue] += 1
    return calls


def _floor(at: datetime, step: timedelta) -> datetime:
    return _FIRST + (at - _FIRST) // step * step


@dataclass(frozen=True)
class _FinishedBackfill:
    queries: int
    second_looks: int


def _backfill(generate: Callable[[random.Random, timedelta], Calls], granularity: str, seed: int) -> _FinishedBackfill:
    report = _report(granularity)
    calls = generate(random.Random(seed), report.step.nominal_length)  # noqa: S311 - calls, not secrets
    density = RowDensity(report.zone, report.expected_groups_per_bucket())
    fetcher = _Fetcher(report, calls, SeriesKnowledge(Knowledge(report, density)))
    days = [Interval(_FIRST + day * _DAY, _FIRST + (day + 1) * _DAY) for day in range(_DAYS)]
    asyncio.run(fetch_chunks(fetcher, days, asyncio.Queue[ChunkEvent | None]()))
    return _FinishedBackfill(fetcher.queries, fetcher.second_looks)


@dataclass
class _Fetcher:
    """Takes chunks through the package's own states, with the vendor's table in place of a vendor and stores."""

    report: Report
    calls: Calls
    knowledge: SeriesKnowledge
    queries: int = 0
    second_looks: int = 0
    reported: set[tuple[Interval, str]] = field(default_factory=set[tuple[Interval, str]])

    async def fetch(self, missing: Missing, /) -> ChunkOutcome:
        """Verify one day."""
        state = Locked(missing.chunk, IntervalSet([missing.chunk])).choose(self.knowledge.current, lambda _job: True)
        while isinstance(state, Submitted):
            received = state.receive([await self._ask(query) for query in state.queries])
            state, results = received.judge(self.knowledge.current)
            fresh = [each for each in results if (each.interval, each.verdict) not in self.reported]
            self.reported.update((each.interval, each.verdict) for each in fresh)
            self.knowledge.learn_results(fresh)
        if not isinstance(state, Verified):
            raise BenchmarkError(f"{missing.chunk}: no rows, but {state}")
        self.knowledge.learn_rows(state)
        self.second_looks += bool(state.rows.second_looks)
        if state.rows.rows.num_rows != self._rows(missing.chunk).num_rows:
            raise BenchmarkError(f"{missing.chunk}: {state.rows.rows.num_rows} rows were kept")
        return Stored(state.rows)

    async def _ask(self, interval: Interval) -> VendorResponse:
        self.queries += 1
        # Others continue meanwhile, as they do while a vendor works.
        await asyncio.sleep(0)
        return VendorResponse(interval, self._rows(interval), _NOW, _NOW, 1, 0.0)

    def _rows(self, interval: Interval) -> Rows:
        length = self.report.step.nominal_length
        rows = [
            {"interval_start": each.start, "interval_end": each.start + length, "queue_id": f"{queue:02}", "offered": n}
            for each in list_buckets(interval, self.report.step, self.report.zone)
            for queue in range(_QUEUES)
            if (n := self.calls[each.start, queue])
        ]
        return Rows.from_table(rows_to_table(rows, _SCHEMA))
