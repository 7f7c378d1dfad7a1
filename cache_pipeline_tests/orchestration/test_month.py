"""A month of a report by schedules and sensors alone, on a clock of the test's own.

The daemon is away for three days, the vendor for thirty hours, a day is restated, and the clocks go forward. No person
intervenes: history ends equal to the vendor's truth, and no partition is asked for more often than it must be.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.daemon import Daemon
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
#: compared with its two halves on Monday morning, and stays provisional until a second look in the evening agrees. Neither waits for
#: the refetch of Tuesday, which the window demands anyhow. Later Sundays are compared with Sundays.
MONDAY_AFTER_FIRST_SUNDAY, HALVES, SECOND_LOOK = date(2026, 3, 9), 2, 1

pytestmark = pytest.mark.serial


def _days(first: date, last: date) -> Iterable[date]:
    return (first + n * ONE_DAY for n in range((last - first).days + 1))


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


def _expected_queries() -> Counter[date]:
    """Return by day one query for each partition that is new, and one for each that is refetched."""
    up = [day for day in _days(FIRST + ONE_DAY, LAST + ONE_DAY) if day not in DAEMON_AWAY | {VENDOR_AWAY}]
    expected = Counter[date]()
    for day in _days(FIRST, LAST):
        first, last_day = next(each for each in up if each > day), day + 3 * ONE_DAY
        expected[first] += 1
        expected.update(each for each in up if first < each <= last_day)
        if last_day not in up and first < last_day:
            expected.update([each for each in up if each > last_day][:1])
    return expected


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
    queries = Counter[tuple[date, time]]()
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
            queries[today, at] += bench.count_queries()
    assert _stored(bench) == _truth(bench)
    morning, evening = TIMES_OF_TICKS
    queries[MONDAY_AFTER_FIRST_SUNDAY, morning] -= HALVES
    queries[MONDAY_AFTER_FIRST_SUNDAY, evening] -= SECOND_LOOK
    by_day = Counter[date]()
    for (day, _), count in queries.items():
        by_day[day] += count
    assert by_day == _expected_queries()
    assert daemon.failed_runs < 12
