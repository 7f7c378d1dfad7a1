"""Ended months are one file, later days one file each, and publishers whose clocks differ agree on it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.storage.sample_rows import REPORT, table

BERLIN = REPORT.model_copy(update={"time_zone": "Europe/Berlin"})
JANUARY = [f"2026-01-{day:02}" for day in range(1, 32)]


class Clock:
    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-01-31T12:00")


@pytest.fixture
def edge(tmp_path: Path, clock: Clock) -> EdgeTier:
    return EdgeTier(f"file://{tmp_path}", clock)


def day_of(text: str) -> Interval:
    start = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return Interval(start, start + timedelta(days=1))


def partitions(edge: EdgeTier) -> list[str]:
    return [file.partition for file in edge.manifest().datasets["queue_hour"].files]


def publish(edge: EdgeTier, *days: str, offered: int = 1, provisional_from: datetime | None = None):
    return edge.publish(REPORT, {day_of(day): table(day_of(day), offered) for day in days}, provisional_from)


def test_ended_month_is_one_file(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 2, 4, tzinfo=UTC)
    publish(edge, *JANUARY, "2026-02-01", "2026-02-02")
    assert partitions(edge) == ["2026-01", "2026-02-01", "2026-02-02"]
    month = edge.manifest().datasets["queue_hour"].files[0]
    assert month.path == f"data/queue_hour/month=2026-01/{month.sha256[:16]}.parquet"
    assert (month.rows, month.row_groups) == (31 * 48, 1)
    assert (month.min_interval, month.max_interval) == (day_of("2026-01-01").start, day_of("2026-01-31").end)


def test_days_are_merged_when_their_month_ends(edge: EdgeTier, clock: Clock):
    for number, day in enumerate(JANUARY):
        publish(edge, day, offered=number)
    assert partitions(edge) == JANUARY
    clock.now = datetime(2026, 2, 4, tzinfo=UTC)
    publication = publish(edge, "2026-02-03", offered=100)
    assert partitions(edge) == ["2026-01", "2026-02-03"]
    assert publication.uploaded == 2
    rows = edge.read(REPORT, Interval(day_of("2026-01-01").start, day_of("2026-02-03").end))
    assert rows["offered"].to_pylist() == [number for number in range(31) for _ in range(48)] + [100] * 48
    assert publish(edge, "2026-02-03", offered=100).uploaded == 0


def test_recently_ended_month_stays_open(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 2, 2, 12, tzinfo=UTC)
    publish(edge, *JANUARY)
    assert partitions(edge) == JANUARY


def test_month_with_provisional_day_is_not_merged(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    publish(edge, *JANUARY, provisional_from=day_of("2026-01-31").start)
    assert partitions(edge) == JANUARY
    publish(edge, "2026-01-31")
    assert partitions(edge) == ["2026-01"]


def test_restated_day_uploads_one_month_file(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    publish(edge, *JANUARY)
    assert publish(edge, "2026-01-10", offered=7).uploaded == 1
    rows = edge.read(REPORT, Interval(day_of("2026-01-01").start, day_of("2026-01-31").end))
    assert rows["offered"].to_pylist() == [1] * 9 * 48 + [7] * 48 + [1] * 21 * 48
    assert publish(edge, *JANUARY).uploaded == 0, "what was published before is still there"


def test_provisional_day_leaves_rest_of_month_final(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    publish(edge, *JANUARY)
    publish(edge, "2026-01-10", provisional_from=day_of("2026-01-10").start)
    dataset = edge.manifest().datasets["queue_hour"]
    assert (dataset.complete_from, dataset.complete_through) == (day_of("2026-01-10").end, day_of("2026-01-31").end)
    publish(edge, "2026-01-10")
    dataset = edge.manifest().datasets["queue_hour"]
    assert (dataset.complete_from, dataset.complete_through) == (day_of("2026-01-01").start, day_of("2026-01-31").end)


def test_slow_clock_writes_into_a_merged_month(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 2, 4, tzinfo=UTC)
    publish(edge, *JANUARY)
    generated = edge.manifest().generated_at
    clock.now = datetime(2026, 1, 20, tzinfo=UTC)
    publish(edge, "2026-01-20", offered=5)
    assert partitions(edge) == ["2026-01"]
    assert edge.read(REPORT, day_of("2026-01-20"))["offered"].to_pylist() == [5] * 48
    assert edge.manifest().generated_at == generated, "a slow clock does not make the manifest older"
    assert edge.manifest().sequence == 2


def test_time_from_a_fast_clock_is_ignored(edge: EdgeTier, clock: Clock):
    """The manifest's modification time shows that it cannot have been generated in the future."""
    today = datetime.now(UTC)
    clock.now = today + timedelta(days=365)
    publish(edge, "2026-01-20")
    clock.now = today
    publish(edge, "2026-01-21")
    assert edge.manifest().generated_at == today


def test_months_follow_the_data_sets_time_zone(edge: EdgeTier, clock: Clock):
    clock.now = datetime(2026, 2, 4, tzinfo=UTC)
    edge.publish(BERLIN, {day_of(day): table(day_of(day)) for day in (*JANUARY, "2026-02-01")}, None)
    # The last hour of December in UTC is in January in Berlin, and the last hour of January is in February.
    assert partitions(edge) == ["2026-01", "2026-02-01", "2026-02-02"]
    assert edge.manifest().datasets["queue_hour"].files[0].rows == (31 * 24 - 1) * 2


def test_unchanged_manifest_is_confirmed_after_an_hour(edge: EdgeTier, clock: Clock):
    publish(edge, "2026-01-20")
    first = edge.manifest()
    clock.now += timedelta(minutes=30)
    publish(edge, "2026-01-20")
    assert edge.manifest() == first
    clock.now += timedelta(hours=1)
    assert publish(edge, "2026-01-20").uploaded == 0
    assert edge.manifest().generated_at == clock.now
