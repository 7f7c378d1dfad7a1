"""Rows whose end the vendor tells only days later are right in the end, by schedules and sensors alone.

An agent who leaves on Friday is OFFLINE until Monday, and a message thread may last for a week. Their day is final long before,
with a row that has no end.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.daemon import Daemon
from cache_pipeline_tests.orchestration.workbench import SECRETS, SMALL_VENDOR, Bench, declaration, open_bench
from cache_pipeline_tests.world import SteppedClock

TIMES_OF_TICKS = (time(0, 16), time(18))
ONE_DAY = timedelta(days=1)
FAMILIES = {"conversations": "conversations", "users": "userDetails"}

pytestmark = pytest.mark.serial


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(datetime(2026, 1, 5, tzinfo=UTC))


@contextmanager
def _opened(
    servers: pytest.MonkeyPatch, folder: Path, clock: SteppedClock, vendor: dict[str, Any], **fields: Any
) -> Generator[Bench]:
    common = {
        "time_zone": "UTC",
        "delivery": None,
        "group_by": [],
        "volume_metric": None,
        "expected_groups": None,
        "tiers": ["history"],
        "drift_tolerance": None,
    }
    # The vendor's clock stands still during a run, so a job must take no time.
    instant = {"token_lifetime_seconds": 10_000_000.0, "job_seconds_base": 0.0, "job_seconds_variation": 0.0}
    instant_vendor = SMALL_VENDOR.model_copy(update=instant | vendor)
    with open_bench(servers, folder, declaration(**common, **fields), instant_vendor, clock) as bench:
        yield bench


def _run_days(bench: Bench, instance: dg.DagsterInstance, clock: SteppedClock, first: date, last: date) -> None:
    """Tick the report's schedule and sensors from the morning after the first day to the evening after the last."""
    daemon, name = Daemon(bench, instance, clock), bench.report.name
    for number in range((last - first).days + 1):
        today = first + (number + 1) * ONE_DAY
        for at in TIMES_OF_TICKS:
            clock.at = datetime.combine(today, at, UTC)
            with freeze_time(clock.at):
                if at == TIMES_OF_TICKS[0]:
                    daemon.tick_schedule(datetime.combine(today, time(0, 15), UTC))
                daemon.tick_sensor(f"{name}_stale_sensor")
                daemon.tick_sensor(f"{name}_refetch_sensor")
    assert not daemon.failed_runs


def _stored(bench: Bench, day: Interval, *keys: str) -> Mapping[tuple[str, ...], dict[str, Any]]:
    with open_history(read_settings().required_postgres_url()) as history:
        assert history.coverage(bench.series).final.covers(day)
        rows = history.read(bench.series, day, report_columns(bench.report)).to_pylist()
    return {tuple(str(row[key]) for key in keys): row for row in rows}


def _entries(bench: Bench, family: str, day: Interval) -> list[dict[str, Any]]:
    """Return the details that the vendor tells now."""
    client, secret = next(iter(SECRETS.items()))
    token = bench.admin.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(client, secret)).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    entries: list[dict[str, Any]] = []
    while True:
        paging = {"pageSize": 100, "pageNumber": len(entries) // 100 + 1}
        page = bench.admin.post(
            f"/api/v2/analytics/{family}/details/query", json={"interval": str(day), "paging": paging}, headers=headers
        ).json()
        entries += page.get(FAMILIES[family], [])
        if len(entries) >= page["totalHits"]:
            return entries


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@pytest.mark.timeout(900)
def test_weekend_off_duty_ends_on_monday(
    servers: pytest.MonkeyPatch, tmp_path: Path, clock: SteppedClock, instance: dg.DagsterInstance
) -> None:
    friday = Interval.parse("2026-01-09T00:00:00Z/P1D")
    fields = {
        "name": "presence",
        "query_type": "users",
        "rows": "presence",
        "metrics": ["tSystemPresence"],
        "start": "2026-01-09",
    }
    with _opened(servers, tmp_path, clock, {}, **fields) as bench:
        _run_days(bench, instance, clock, date(2026, 1, 9), date(2026, 1, 12))
        stored = _stored(bench, friday, "user_id", "start_time")
        assert any((row["t_system_presence"] or 0) > 48 * 3_600_000 for row in stored.values())
        assert {(user, datetime.fromisoformat(start)): row["end_time"] for (user, start), row in stored.items()} == {
            (user["userId"], _instant(stretch["startTime"])): _instant(stretch.get("endTime"))
            for user in _entries(bench, "users", friday)
            for stretch in user["primaryPresence"]
            if stretch["startTime"] >= str(friday.start.date())
        }


@pytest.mark.timeout(900)
def test_thread_of_a_week_ends_with_it(
    servers: pytest.MonkeyPatch, tmp_path: Path, clock: SteppedClock, instance: dg.DagsterInstance
) -> None:
    monday = Interval.parse("2026-01-05T00:00:00Z/P1D")
    fields = {
        "name": "threads",
        "query_type": "conversations",
        "rows": "conversations",
        "metrics": ["nOffered", "tHandle"],
        "open_row_timeout": "P2D",
        "start": "2026-01-05",
    }
    vendor = {"conversations_per_working_day": 300, "thread_share": 0.2}
    with _opened(servers, tmp_path, clock, vendor, **fields) as bench:
        _run_days(bench, instance, clock, date(2026, 1, 5), date(2026, 1, 13))
        stored = _stored(bench, monday, "conversation_id")
        lengths = [row["conversation_end"] - row["conversation_start"] for row in stored.values()]
        assert max(lengths) > timedelta(days=4)
        assert {key: row["conversation_end"] for (key,), row in stored.items()} == {
            entry["conversationId"]: _instant(entry.get("conversationEnd"))
            for entry in _entries(bench, "conversations", monday)
            if entry["conversationStart"] >= str(monday.start.date())
        }
