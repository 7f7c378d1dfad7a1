"""The worked example of docs/dagster.md, executed as it stands there."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline_tests.orchestration.bench import Bench, failures

PAGE = Path(__file__).parents[2] / "docs" / "dagster.md"
DAYS = ["2024-06-10", "2024-06-11"]


@pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")
def test_the_worked_example_reads_the_days_of_its_run(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, *DAYS).success
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    asset = names["busiest_hours"](bench.report.report, bench.partitions)
    defs = dg.Definitions.merge(bench.definitions(), dg.Definitions(assets=[asset]))
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[asset.key], tags=range_tags(*DAYS), raise_on_error=False
    )
    assert result.success, failures(result)
    metadata = result.asset_materializations_for_node("busiest_hours")[0].metadata
    assert metadata["offered"].value == bench.truth(bench.interval(*DAYS))
