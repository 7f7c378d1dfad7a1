"""Rows that end days after their partition became final come right by the schedule and the sensors alone."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.daemon import Daemon
from cache_pipeline_tests.orchestration.workbench import SMALL_VENDOR, Bench, declaration, open_bench
from cache_pipeline_tests.world import SteppedClock

pytestmark = pytest.mark.serial

#: From a Thursday to a Sunday.
FIRST, LAST = date(2026, 1, 8), date(2026, 1, 11)
ONE_DAY = timedelta(days=1)
CONVERSATIONS = {
    "query_type": "conversations",
    "rows": "conversations",
    "metrics": ["nOffered", "tHandle"],
}
PRESENCE = {"query_type": "users", "rows": "presence", "metrics": ["tSystemPresence"]}


def _ends(bench: Bench, last: date, names: tuple[str, str, str]) -> Mapping[tuple[Any, ...], datetime | None]:
    """Return when each row ends, by its id and its start; history must hold all of them as final."""
    whole = bench.interval(FIRST.isoformat(), last.isoformat())
    with open_history(read_settings().required_postgres_url()) as history:
        assert history.coverage(bench.series).final.covers(whole)
        rows = history.read(bench.series, whole, report_columns(bench.report)).to_pylist()
    *key, end = names
    return {tuple(row[name] for name in key): row[end] for row in rows}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fields", "names", "longest", "days"),
    [
        (CONVERSATIONS, ("conversation_id", "conversation_start", "conversation_end"), timedelta(days=5), 12),
        (PRESENCE, ("user_id", "start_time", "end_time"), timedelta(hours=60), 6),
    ],
    ids=["thread of a week", "weekend off duty"],
)
def test_late_end_is_stored_without_a_person(
    servers: pytest.MonkeyPatch,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    fields: Mapping[str, Any],
    names: tuple[str, str, str],
    longest: timedelta,
    days: int,
) -> None:
    clock = SteppedClock(datetime.fromisoformat("2026-01-08T12:00+00:00"))
    declared = declaration(
        start=FIRST.isoformat(),
        time_zone="UTC",
        delivery=None,
        group_by=[],
        volume_metric=None,
        expected_groups=None,
        tiers=["history"],
        drift_tolerance=None,
        **fields,
    )
    # A refetch must not hide what the rows themselves cause.
    declared["fetch"]["refetch_window"] = None
    vendor = SMALL_VENDOR.model_copy(
        update={
            "conversations_per_working_day": 300,
            "thread_share": 0.3,
            "agents": 12,
            # The clock stands still while a job runs.
            "job_seconds_base": 0.0,
            "token_lifetime_seconds": 10_000_000.0,
        }
    )
    with open_bench(servers, tmp_path, declared, vendor, clock) as bench:
        daemon, name = Daemon(bench, instance, clock), bench.report.name

        def tick(today: date, at: time) -> None:
            clock.at = datetime.combine(today, at, bench.report.zone)
            with freeze_time(clock.at):
                if at < time(12):
                    daemon.tick_schedule(datetime.combine(today, time(0, 15), bench.report.zone))
                daemon.tick_sensor(f"{name}_stale_sensor")

        # Then the last thread or stretch that began on these days has ended, and the answer to that day has told.
        for number in range(1, days + 1):
            for at in (time(0, 16), time(18)):
                tick(FIRST + number * ONE_DAY, at)
        ends = _ends(bench, LAST, names)
        assert daemon.failed_runs == 0
        assert [key for key, end in ends.items() if end is None] == []
        assert max(end - start for (_, start), end in ends.items() if end) > longest
        # The vendor tells the same now.
        assert bench.run(instance, FIRST.isoformat(), LAST.isoformat(), refetch=True).success
        assert _ends(bench, LAST, names) == ends
