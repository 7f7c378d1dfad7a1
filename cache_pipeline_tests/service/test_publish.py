"""What history holds only for now is published as provisional, and what it lacks not at all."""

from pathlib import Path

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.service.publish import publish_edge
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.storage.memory import MemoryHistory, MemoryServer
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, SERIES, columns_of, hours, replacement


def test_provisional_and_absent_hours_are_not_published_as_final(tmp_path: Path):
    history, edge = MemoryHistory(MemoryServer()), EdgeTier(f"file://{tmp_path}", lambda: NOW)
    history.replace(replacement(hours(0, 6), hours(6, 8)))
    published = publish_edge(history, edge, SERIES, columns_of(REPORT), [hours(0, 10)])
    assert published.absent == IntervalSet([hours(8, 10)])
    dataset = edge.manifest().datasets[REPORT.name]
    assert dataset.complete_through == hours(0, 6).end
    assert dataset.provisional_from == hours(6, 8).start
    assert edge.read(REPORT, hours(0, 10)).num_rows == 2 * 8
