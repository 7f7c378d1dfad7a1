"""What a run writes to its log: one id over all of it, which is the run's own."""

import json
import logging
from collections.abc import Generator

import dagster as dg
import pytest

from cache_pipeline_tests.orchestration.bench import Bench


@pytest.fixture
def own_lines(servers: pytest.MonkeyPatch) -> Generator[None]:
    """Lines in JSON, as a deployment sets them; afterwards all is as before."""
    servers.setenv("CACHE_PIPELINE_LOG__FORMAT", "json")
    root, own = logging.getLogger(), logging.getLogger("cache_pipeline")
    before, level = list(root.handlers), own.level
    yield
    root.handlers[:] = before
    own.setLevel(level)


@pytest.mark.usefixtures("own_lines")
def test_each_call_of_the_vendor_is_told_under_the_runs_id(
    bench: Bench, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench.run(instance, "2024-06-10", "2024-06-11")
    assert result.success
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    calls = [line for line in written if line["logger"] == "cache_pipeline.upstream.call_log"]
    assert calls
    assert {(line["correlation_id"], line["process"]) for line in calls} == {(result.run_id, "dagster")}
