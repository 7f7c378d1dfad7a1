"""Test with a short version of `make chaos`."""

import pytest

from cache_pipeline_tests.chaos import faults as fault_schedule
from cache_pipeline_tests.chaos import scenario
from cache_pipeline_tests.chaos.faults import make_schedule
from cache_pipeline_tests.chaos.run import ChaosRun

pytestmark = pytest.mark.serial

_SEED, _SECONDS = 169, 12.0


@pytest.mark.timeout(600)
async def test_short_run_has_no_violations(tmp_path, monkeypatch):
    for module, name, smaller in (
        (scenario, "DAYS", 12),
        (scenario, "RECENT_DAYS", 6),
        (fault_schedule, "RESTATED_DAYS_AGO", (2, 8)),
    ):
        monkeypatch.setattr(module, name, smaller)
    faults = make_schedule(_SEED, _SECONDS, pause=(0.5, 1.2))
    outcome = await ChaosRun(tmp_path, _SEED, _SECONDS, faults, lambda activity, share: None).execute()
    assert outcome.is_clean, outcome.violations
    # The run did real work: jobs ended, the vendor was called, and there were figures to compare.
    assert outcome.counts["jobs done"]
    assert outcome.counts["requests to the vendor"] > 50
    assert outcome.counts["figures compared: edge of queue_hour"] > 500
