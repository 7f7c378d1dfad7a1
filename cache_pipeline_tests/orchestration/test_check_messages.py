"""What a run tells of itself: one id over all its lines and spans, which is the run's own."""

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


def test_all_steps_of_a_run_are_one_trace_from_the_vendor_to_the_tiers(
    bench: Bench,
    instance: dg.DagsterInstance,
    finished_spans: Callable[[], Sequence[ReadableSpan]],
) -> None:
    result = bench.run(instance, "2024-06-10", "2024-06-11")
    assert result.success
    of_the_run = result.run_id.replace("-", "")
    names = {each.name for each in finished_spans() if each.context and f"{each.context.trace_id:032x}" == of_the_run}
    assert {"dagster run", "chunk", "upstream call", "store history", "store edge"} <= names
    assert {each.name for each in finished_spans()} == names
