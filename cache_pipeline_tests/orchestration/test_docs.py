"""Tests that execute the worked example of docs/dagster.md."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline_tests.orchestration.workbench import SMALL_VENDOR, Bench, step_failures

PAGE = Path(__file__).parents[2] / "docs" / "dagster.md"
DAYS = ["2024-06-10", "2024-06-11"]


# The example is written as users would write it, and Dagster calls backfill policies a beta feature.
@pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")
def test_worked_example_reads_its_run_from_two_tiers(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, *DAYS).success
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    asset = names["calls_of"](bench.report.name, bench.partitions)
    job = dg.Definitions.merge(
        bench.definitions(), dg.Definitions(assets=[asset])
    ).resolve_implicit_global_asset_job_def()
    for first, last in (DAYS, (DAYS[1], DAYS[1])):
        result = job.execute_in_process(
            instance=instance, asset_selection=[asset.key], tags=range_tags(first, last), raise_on_error=False
        )
        assert result.success, step_failures(result)
        metadata = result.asset_materializations_for_node("busiest_hours")[0].metadata
        truth = bench.vendor_total(bench.interval(first, last))
        assert (metadata["offered"].value, metadata["published"].value) == (truth, truth)
        assert metadata["queues"].value == SMALL_VENDOR.queues
