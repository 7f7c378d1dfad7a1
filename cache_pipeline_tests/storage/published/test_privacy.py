"""What may be published: aggregates, allowed columns, and no cell so small that it could identify a person."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.files import restrict_rows
from cache_pipeline.vendors.declaration_rules import find_vendor_problems
from cache_pipeline_tests.query.declared import declared, with_changes
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

DAY = hours(0, 24)


@pytest.fixture
def edge(tmp_path: Path) -> EdgeTier:
    return EdgeTier(f"file://{tmp_path}", lambda: NOW)


@pytest.mark.parametrize("dimension", ["userId", "ani", "conversationId"])
def test_personal_dimensions_cannot_be_declared_for_the_edge(dimension: str):
    ((field, problem),) = find_vendor_problems(declared(group_by=["queueId", dimension]))
    assert field == "publish.tiers"
    assert re.search(rf"aggregates only.*{dimension}.*tiers: \[history, hot\]", problem)
    assert not list(find_vendor_problems(declared(group_by=["queueId", dimension], tiers=["history", "hot"])))


def test_only_allowed_columns_are_published(edge: EdgeTier, tmp_path: Path):
    report = with_changes(REPORT, edge_columns=("offered",))
    [file] = edge.publish(report, {DAY: table(DAY)}, None).files
    names = ["interval_start", "interval_end", "queue_id", "offered"]
    assert pq.read_schema(tmp_path / "v1/default" / file.path).names == names
    assert list(edge.manifest().datasets["queue_hour"].columns) == names
    assert edge.manifest().datasets["queue_hour"].dimensions == ("queue_id",)


def test_disallowed_columns_vanish_from_every_file(edge: EdgeTier):
    edge.publish(REPORT, {DAY: table(DAY), hours(24, 48): table(hours(24, 48))}, None)
    report = with_changes(REPORT, edge_columns=("offered",))
    edge.publish(report, {DAY: table(DAY)}, None)
    assert [file.partition for file in edge.manifest().datasets["queue_hour"].files] == ["2026-01-05"]


def test_unknown_allowed_column_is_refused(edge: EdgeTier):
    report = with_changes(REPORT, edge_columns=("offered", "handleMs"))
    with pytest.raises(EdgeStoreError, match=r"edge_columns names the unknown handle_ms; expected some of .*offered"):
        edge.publish(report, {DAY: table(DAY)}, None)
    assert edge.manifest().datasets == {}


def test_small_cells_are_withheld_but_keep_their_rows(edge: EdgeTier):
    report = with_changes(REPORT, min_cell_count=5)
    rows = pa.concat_tables([table(hours(0, 1), 4), table(hours(1, 2), 5), table(hours(2, 3), 0)])
    edge.publish(report, {hours(0, 3): rows}, None)
    published = edge.read(report, hours(0, 3))
    assert published["offered"].to_pylist() == [None, None, 5, 5, 0, 0]
    assert published["longest"].to_pylist()[:2] == [None, None]
    assert published["queue_id"].to_pylist() == ["q1", "q2"] * 3
    assert edge.manifest().datasets["queue_hour"].min_cell_count == 5


def test_figures_withheld_by_other_events_vanish_from_every_file(edge: EdgeTier):
    """A day that was published by another volume metric may show what few events of the new one make up."""
    night = hours(24, 48)
    report = with_changes(REPORT, min_cell_count=5)
    edge.publish(report, {DAY: table(DAY), night: table(night)}, None)
    edge.publish(with_changes(report, volume_metric="answered"), {DAY: table(DAY)}, None)
    assert [file.partition for file in edge.manifest().datasets["queue_hour"].files] == ["2026-01-05"]
    edge.publish(with_changes(REPORT, volume_metric="answered"), {DAY: table(DAY)}, None)
    edge.publish(REPORT, {night: table(night)}, None)
    assert len(edge.manifest().datasets["queue_hour"].files) == 2, "without min_cell_count it withholds nothing"


def test_min_cell_count_needs_a_volume_metric():
    with pytest.raises(ValidationError, match=r"min_cell_count.*\n.*needs volume_metric"):
        declared(volume_metric=None, min_cell_count=5)
    report = declared(volume_metric="answered", min_cell_count=5, time_zone="UTC", group_by=["queueId"])
    with pytest.raises(EdgeStoreError, match="needs a volume_metric that counts"):
        restrict_rows(report, table(DAY).drop_columns(["answered"]))
