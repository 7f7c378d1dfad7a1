"""Tests of a run's telemetry: all its log lines and spans carry the run's id."""

import json
import logging
from collections.abc import Callable, Generator, Sequence

import dagster as dg
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from cache_pipeline_tests.orchestration.workbench import Bench
from cache_pipeline_tests.telemetry.spans import finished_spans

__all__ = ["finished_spans"]


@pytest.fixture
def json_logs(servers: pytest.MonkeyPatch) -> Generator[None]:
    """Write log lines as JSON, as a deployment does; restore the loggers afterwards."""
    servers.setenv("CACHE_PIPELINE_LOG__FORMAT", "json")
    root, package = logging.getLogger(), logging.getLogger("cache_pipeline")
    before, level = list(root.handlers), package.level
    yield
    root.handlers[:] = before
    package.setLevel(level)


@pytest.mark.usefixtures("json_logs")
def test_upstream_calls_are_logged_under_the_run_id(
    bench: Bench, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench.run(instance, "2024-06-10", "2024-06-11")
    assert result.success
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    calls = [line for line in written if line["logger"] == "cache_pipeline.upstream.call_log"]
    assert calls
    assert {(line["correlation_id"], line["process"]) for line in calls} == {(result.run_id, "dagster")}


def test_all_steps_of_a_run_share_one_trace(
    bench: Bench,
    instance: dg.DagsterInstance,
    finished_spans: Callable[[], Sequence[ReadableSpan]],
) -> None:
    result = bench.run(instance, "2024-06-10", "2024-06-11")
    assert result.success
    trace_id = result.run_id.replace("-", "")
    names = {each.name for each in finished_spans() if each.context and f"{each.context.trace_id:032x}" == trace_id}
    assert {"dagster run", "chunk", "upstream call", "store history", "store edge"} <= names
    assert {each.name for each in finished_spans()} == names
