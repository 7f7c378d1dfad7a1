"""A month of a report by schedules and sensors alone, on a clock of the test's own.

The daemon is away for three days, the vendor for thirty hours, a day is restated, and the clocks go forward. No person
intervenes: history ends equal to the vendor's truth, and no partition is asked for more often than it must be.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.io_managers import EdgeIOManager, HistoryIOManager, HotIOManager
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import SMALL_VENDOR, Bench, declaration, open_bench
from cache_pipeline_tests.world import SteppedClock

FIRST, LAST = date(2026, 3, 5), date(2026, 4, 3)
DAEMON_AWAY = {date(2026, 3, 12), date(2026, 3, 13), date(2026, 3, 14)}
#: The vendor answers nothing from midnight until the evening of the next day.
VENDOR_AWAY = date(2026, 3, 20)
RESTATED, RESTATED_ON = date(2026, 3, 25), date(2026, 3, 26)
TIMES_OF_TICKS = (time(0, 16), time(18))
ONE_DAY = timedelta(days=1)
#: History knows a Thursday, a Friday and a Saturday when the first Sunday is fetched, whose calls are far fewer. So its answer is
#: compared with its two halves, and looked at once more the next evening. Later Sundays are compared with Sundays.
QUERIES_TO_VERIFY_THE_FIRST_SUNDAY = 3

pytestmark = pytest.mark.serial


def _days(first: date, last: date) -> Iterable[date]:
    return (first + n * ONE_DAY for n in range((last - first).days + 1))


def clocked_engine(clock: Callable[[], datetime]) -> EngineResource:
    """Return an engine whose sensors, checks and services read the test's clock."""

    class ClockedEngine(EngineResource):
        def now(self) -> datetime:
            return clock()

        @asynccontextmanager
        async def service(self) -> AsyncGenerator[ReportService]:
            async with EngineResource.service(self) as service:
                yield replace(service, clock=clock)

    return ClockedEngine()


@dataclass
class Daemon:
    """Evaluates a report's schedule and sensors, and runs what they request, one run after another."""

    bench: Bench
    instance: dg.DagsterInstance
    clock: SteppedClock
    failed_runs: int = 0
    requested: list[str] = field(default_factory=list[str])
    cursors: dict[str, str | None] = field(default_factory=dict[str, str | None])

    def __post_init__(self) -> None:
        self.engine = clocked_engine(self.clock)
        resources = {
            "cache_pipeline__engine": self.engine,
            "cache_pipeline__history_io_manager": HistoryIOManager(engine=self.engine),
            "cache_pipeline__hot_io_manager": HotIOManager(engine=self.engine),
            "cache_pipeline__edge_io_manager": EdgeIOManager(engine=self.engine),
        }
        reports = {self.bench.report.name: self.bench.report}
        self.definitions = build_defs(reports=reports, resource_overrides=resources)
        self.repository = self.definitions.get_repository_def()

    def tick_schedule(self, at: datetime) -> None:
        schedule = self.definitions.resolve_schedule_def(f"{self.bench.report.name}_schedule")
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=at, repository_def=self.repository
        )
        self._launch(schedule.evaluate_tick(context).run_requests or [])

    def tick_sensor(self, name: str) -> None:
        sensor = self.definitions.resolve_sensor_def(name)
        context = dg.build_sensor_context(
            instance=self.instance,
            resources={"cache_pipeline__engine": self.engine},
            cursor=self.cursors.get(name),
            repository_def=self.repository,
        )
        with context:
            tick = sensor.evaluate_tick(context)
        self.cursors[name] = tick.cursor
        self._launch(tick.run_requests or [])

    def _launch(self, requests: Iterable[dg.RunRequest]) -> None:
        for request in requests:
            assert request.run_key is not None
            if request.run_key in self.requested:
                continue
            self.requested.append(request.run_key)
            job = self.definitions.resolve_job_def(job_name(self.bench.report))
            result = job.execute_in_process(
                instance=self.instance,
                run_config=request.run_config,
                tags=request.tags,
                partition_key=request.partition_key,
                raise_on_error=False,
            )
            self.failed_runs += not result.success


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(datetime(2026, 3, 5, tzinfo=UTC))


@pytest.fixture
def month_bench(servers: pytest.MonkeyPatch, tmp_path: Path, clock: SteppedClock) -> Generator[Bench]:
    fields = declaration(
        start=FIRST.isoformat(),
        metrics=["nOffered", "tTalk"],
        tiers=["history"],
        drift_tolerance=None,
        expected_groups=1,
    )
    # So many that no answer looks sparse, which would take queries for its parts.
    vendor = SMALL_VENDOR.model_copy(
        update={"conversations_per_working_day": 6000, "token_lifetime_seconds": 10_000_000.0}
    )
    with open_bench(servers, tmp_path, fields, vendor, clock) as bench:
        yield bench


def _expected_queries() -> int:
    """Return one query for each day, and one for each local day on which it is refetched."""
    up = [day for day in _days(FIRST + ONE_DAY, LAST + ONE_DAY) if day not in DAEMON_AWAY | {VENDOR_AWAY}]
    total = 0
    for day in _days(FIRST, LAST):
        first, last_day = next(each for each in up if each > day), day + 3 * ONE_DAY
        in_window = [each for each in up if first < each <= last_day]
        missed = [each for each in up if each > last_day] if last_day not in up and first < last_day else []
        total += 1 + len(in_window) + bool(missed)
    return total


def _truth(bench: Bench) -> Mapping[tuple[str, str], tuple[int, int]]:
    whole = bench.interval(FIRST.isoformat(), LAST.isoformat())
    query = {"interval": str(whole), "granularity": "PT1H", "groupBy": "queueId", "timeZone": bench.report.time_zone}

    def read(fact: str, column: str) -> dict[tuple[str, str], int]:
        rows = bench.admin.get("/simulator/truth", params={**query, "fact": fact}).json()["rows"]
        return {(datetime.fromisoformat(row["intervalStart"]).isoformat(), row["queueId"]): row[column] for row in rows}

    talk = read("talk", "talkMs")
    return {key: (offered, talk.get(key, 0)) for key, offered in read("offered", "offered").items() if offered}


def _stored(bench: Bench) -> Mapping[tuple[str, str], tuple[int, int]]:
    whole = bench.interval(FIRST.isoformat(), LAST.isoformat())
    with open_history(read_settings().required_postgres_url()) as history:
        assert history.coverage(bench.series).final.covers(whole)
        rows = history.read(bench.series, whole, report_columns(bench.report)).to_pylist()
    return {
        (row["interval_start"].astimezone(UTC).isoformat(), row["queue_id"]): (row["n_offered"], row["t_talk_sum"] or 0)
        for row in rows
        if row["n_offered"]
    }


@pytest.mark.timeout(1500)
def test_month_heals_itself_without_needless_queries(
    month_bench: Bench, clock: SteppedClock, instance: dg.DagsterInstance
) -> None:
    bench, zone = month_bench, month_bench.report.zone
    daemon = Daemon(bench, instance, clock)
    name = bench.report.name
    for today in _days(FIRST + ONE_DAY, LAST + ONE_DAY):
        if today == VENDOR_AWAY:
            bench.inject_faults(server_errors=1_000_000, server_error_status=500)
        for at in TIMES_OF_TICKS:
            clock.at = datetime.combine(today, at, zone).astimezone(UTC)
            if today == VENDOR_AWAY + ONE_DAY and at == time(18):
                bench.clear_faults()
            if today == RESTATED_ON and at == time(18):
                bench.admin.post("/simulator/restatements", json={"day": RESTATED.isoformat()}).raise_for_status()
            if today in DAEMON_AWAY:
                continue
            with freeze_time(clock.at):
                if at == TIMES_OF_TICKS[0]:
                    daemon.tick_schedule(datetime.combine(today, time(0, 15), zone))
                daemon.tick_sensor(f"{name}_stale_sensor")
                daemon.tick_sensor(f"{name}_refetch_sensor")
    assert _stored(bench) == _truth(bench)
    assert bench.count_queries() == _expected_queries() + QUERIES_TO_VERIFY_THE_FIRST_SUNDAY
    assert daemon.failed_runs < 12
