"""A short run of what `make chaos` does for minutes."""

import pytest

from cache_pipeline_tests.chaos import schedule as timetable
from cache_pipeline_tests.chaos import vendor
from cache_pipeline_tests.chaos.run import Run
from cache_pipeline_tests.chaos.schedule import schedule

pytestmark = pytest.mark.serial

_SEED, _SECONDS = 15, 12.0


@pytest.mark.timeout(600)
async def test_nothing_is_lost_partial_doubled_or_over_quota(tmp_path, monkeypatch):
    for module, name, fewer in (
        (vendor, "DAYS", 12),
        (vendor, "RECENT_DAYS", 6),
        (timetable, "RESTATED_DAYS_AGO", (2, 8)),
    ):
        monkeypatch.setattr(module, name, fewer)
    strikes = schedule(_SEED, _SECONDS, pause=(0.5, 1.2))
    books = await Run(tmp_path, _SEED, _SECONDS, strikes, lambda what, share: None).go()
    assert books.clean, books.found
    # It has not been quiet, and there was something to compare.
    assert books.counts["jobs done"]
    assert books.counts["requests to the vendor"] > 50
    assert books.counts["figures compared: edge of queue_hour"] > 500
