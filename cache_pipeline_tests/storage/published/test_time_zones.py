"""An edited time zone moves the days of a data set; no hour is published twice, and none is lost."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from cache_pipeline.edge import read
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.maintenance import verify
from cache_pipeline.storage.published.manifest import DataSet
from cache_pipeline_tests.storage.sample_rows import REPORT, table

BERLIN, NEW_YORK = (REPORT.model_copy(update={"time_zone": zone}) for zone in ("Europe/Berlin", "America/New_York"))
JANUARY, FEBRUARY = datetime(2026, 1, 20, tzinfo=UTC), datetime(2026, 2, 10, tzinfo=UTC)


@pytest.fixture
def edge(tmp_path: Path) -> EdgeTier:
    return EdgeTier(f"file://{tmp_path}", lambda: JANUARY)


def publish_days(edge: EdgeTier, report: Report, first: str, count: int, offered: int = 1) -> IntervalSet:
    """Publish local days one by one, as runs do, and return what they cover."""
    start = datetime.fromisoformat(first).date()
    edges = [midnight(start + timedelta(days=number), report.zone) for number in range(count + 1)]
    days = [Interval(*pair) for pair in pairwise(edges)]
    for day in days:
        edge.publish(report, {day: table(day, offered)}, None)
    return IntervalSet(days)


def data_set(edge: EdgeTier) -> DataSet:
    return edge.manifest().datasets[REPORT.name]


def hours_by_start(edge: EdgeTier) -> Counter[datetime]:
    return Counter(read(f"{edge.store.url}/v1/default", REPORT.name)["interval_start"].to_pylist())


def expect_each_hour_once(edge: EdgeTier, covered: IntervalSet) -> None:
    found, expected = hours_by_start(edge), sum((part.length for part in covered), timedelta(0)) // timedelta(hours=1)
    assert set(found.values()) == {2}, "one row for each of the two queues"
    assert len(found) == expected
    assert IntervalSet(part for file in data_set(edge).files for part in file.covered_intervals()) == covered
    assert verify(edge) == []


@pytest.mark.parametrize("moved", [BERLIN, NEW_YORK])
def test_hours_of_days_before_and_after_are_published_once(edge: EdgeTier, moved: Report):
    before = publish_days(edge, REPORT, "2026-01-05", 3)
    after = publish_days(edge, moved, "2026-01-07", 3, offered=2)
    expect_each_hour_once(edge, before | after)
    assert data_set(edge).time_zone == moved.time_zone
    for part in after:
        assert set(edge.read(moved, part)["offered"].to_pylist()) == {2}, "the later figures count"


def test_one_published_day_moves_all_earlier_ones(edge: EdgeTier):
    before = publish_days(edge, REPORT, "2026-01-05", 3)
    after = publish_days(edge, BERLIN, "2026-01-15", 1)
    expect_each_hour_once(edge, before | after)
    assert [file.partition for file in data_set(edge).files] == [
        *("2026-01-05", "2026-01-06", "2026-01-07", "2026-01-08"),
        "2026-01-15",
    ]


def test_merged_months_move_too(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: FEBRUARY)
    before = publish_days(edge, REPORT, "2026-01-01", 33)
    assert [file.partition for file in data_set(edge).files] == ["2026-01", "2026-02-01", "2026-02-02"]
    after = publish_days(edge, BERLIN, "2026-02-03", 1, offered=2)
    expect_each_hour_once(edge, before | after)
    assert [file.partition for file in data_set(edge).files][:3] == ["2026-01", "2026-02-01", "2026-02-02"]


def test_provisional_hours_stay_provisional(edge: EdgeTier):
    day = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
    late = Interval.parse("2026-01-05T22:00:00Z/2026-01-06T00:00:00Z")
    edge.publish(REPORT, {day: table(day)}, IntervalSet([late]))
    publish_days(edge, BERLIN, "2026-01-10", 1)
    files = data_set(edge).files
    assert IntervalSet(part for file in files for part in file.provisional_intervals()) == IntervalSet([late])


@pytest.fixture
def damaged(edge: EdgeTier) -> EdgeTier:
    """Return a store in which an earlier version left one hour in two files."""
    publish_days(edge, REPORT, "2026-01-05", 2)
    manifest, version = edge.read_manifest()
    old = manifest.datasets[REPORT.name].files[0]
    publish_days(edge, BERLIN, "2026-01-06", 1)
    manifest, version = edge.read_manifest()
    moved = manifest.datasets[REPORT.name]
    files = tuple(sorted((old, *moved.files[1:]), key=lambda file: file.partition))
    dataset = moved.model_copy(update={"files": files})
    assert edge.swap_manifest(manifest.model_copy(update={"datasets": {REPORT.name: dataset}}), version)
    return edge


def test_files_that_overlap_are_refused(damaged: EdgeTier):
    problem = "2026-01-05 and 2026-01-06 both hold 2026-01-05T23:00:00Z/2026-01-06T00:00:00Z"
    with pytest.raises(EdgeStoreError, match=problem):
        read(f"{damaged.store.url}/v1/default", REPORT.name)
    with pytest.raises(EdgeStoreError, match=problem):
        damaged.read(BERLIN, Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z"))
    assert any(problem in found for found in verify(damaged))


def test_publishing_repairs_files_that_overlap(damaged: EdgeTier):
    covered = IntervalSet(part for file in data_set(damaged).files for part in file.covered_intervals())
    after = publish_days(damaged, BERLIN, "2026-01-09", 1)
    expect_each_hour_once(damaged, covered | after)


def test_manifest_with_overlapping_files_is_never_written(damaged: EdgeTier):
    manifest, _ = damaged.read_manifest()
    dataset = manifest.datasets[REPORT.name]
    with pytest.raises(EdgeStoreError, match="both hold"):
        manifest.merge_files(REPORT.name, dataset, dataset.files, JANUARY)
