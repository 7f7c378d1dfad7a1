"""Tests of retries after a failed completeness check: smaller chunks, a bounded number of times (C3)."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration import sensors
from cache_pipeline.orchestration.decisions import CompletenessEvaluation as Evaluation
from cache_pipeline.orchestration.decisions import (
    IncompletePartition,
    decide_retries,
    find_incomplete_partitions,
    smaller_chunks,
)
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.workbench import (
    Bench,
    declaration,
    materialized,
    open_bench,
    recorded_evaluations,
    step_failures,
)
from cache_pipeline_tests.query.declared import declared as report_of

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
WAIT = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("granularity", "chunk", "expected"),
    [
        ("PT1H", "P1M", ["P1W", "P1D"]),
        ("PT15M", "P1D", ["PT1H", "PT30M"]),
        ("PT30M", "P1D", ["PT1H"]),
        ("P1D", "P1W", []),
        ("PT1H", "PT1H", []),
    ],
)
def test_retry_chunks_shrink_but_exceed_one_bucket(granularity: str, chunk: str, expected: list[str]) -> None:
    assert smaller_chunks(report_of(granularity=granularity, max_query_interval=chunk)) == expected


def test_retry_delay_doubles_until_retries_end() -> None:
    report = report_of(granularity="PT15M", max_query_interval="P1D")

    def due(attempts: int, minutes: float) -> list[str]:
        failed = IncompletePartition("day", NOW - timedelta(minutes=minutes), attempts)
        return [retry.chunk for retry in decide_retries(report, [failed], NOW, wait=WAIT, at_most=3)]

    assert [due(0, 4.9), due(0, 5), due(1, 9.9), due(1, 10)] == [[], ["PT1H"], [], ["PT30M"]]
    assert [due(2, 20), due(3, 10_000)] == [["PT30M"], []]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=30), st.integers(0, 5))
def test_retries_are_bounded_and_unique(known: list[tuple[int, int]], at_most: int) -> None:
    failed = [IncompletePartition(str(number), NOW - timedelta(hours=age), 0) for number, age in dict(known).items()]
    found = decide_retries(report_of(), failed, NOW, wait=WAIT, at_most=at_most)
    assert len(found) <= at_most
    assert len({(retry.key, retry.state, retry.attempt) for retry in found}) == len(found)


def test_passing_check_resets_the_retry_count() -> None:
    def at(minute: int) -> datetime:
        return NOW + timedelta(minutes=minute)

    evaluations = [
        Evaluation(*each)
        for each in (("a", at(1), False, 0), ("a", at(2), False, 1), ("a", at(3), False, 0), ("b", at(1), False, 2))
    ]
    assert find_incomplete_partitions(evaluations) == [
        IncompletePartition("a", at(3), 1),
        IncompletePartition("b", at(1), 2),
    ]
    assert find_incomplete_partitions([*evaluations, Evaluation("a", at(4), True, 0)]) == [
        IncompletePartition("b", at(1), 2)
    ]
    after_pass = find_incomplete_partitions(
        [*evaluations, Evaluation("a", at(4), True, 0), Evaluation("a", at(5), False, 0)]
    )
    assert IncompletePartition("a", at(5), 0) in after_pass


DAY = "2024-06-10"


@pytest.fixture
def weekly_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with open_bench(servers, tmp_path, declaration(max_query_interval="P1W")) as bench:
        yield bench


def _requests(bench: Bench, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    sensor = bench.definitions().resolve_sensor_def("incomplete_sensor")
    with dg.build_sensor_context(instance=instance) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def _run(bench: Bench, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    config: Any = request.run_config
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    return job.execute_in_process(instance=instance, run_config=config, tags=dict(request.tags), raise_on_error=False)


def test_incomplete_partition_is_retried_until_it_passes(
    weekly_bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_FIRST_RETRY_DELAY", timedelta(0))
    assert _requests(weekly_bench, instance) == []
    weekly_bench.inject_faults(max_rows=1)
    assert not weekly_bench.run(instance, DAY).success
    (first,) = _requests(weekly_bench, instance)
    assert _requests(weekly_bench, instance)[0].run_key == first.run_key, "one failure requests one retry"
    assert first.run_config["ops"]["staged__calls_hour"]["config"] == {"max_query_interval": "P1D", "retry_attempt": 1}

    assert not _run(weekly_bench, instance, first).success
    evaluations = [
        one for one in recorded_evaluations(instance, weekly_bench.check("completeness")) if one.partition == DAY
    ]
    assert [
        (one.passed, one.metadata["retry attempt"].value, one.metadata["max query interval"].value)
        for one in evaluations
    ] == [
        (False, 0, "P1W"),
        (False, 1, "P1D"),
    ]
    (second,) = _requests(weekly_bench, instance)
    assert second.run_config["ops"]["staged__calls_hour"]["config"] == {"max_query_interval": "P1D", "retry_attempt": 2}

    weekly_bench.clear_faults()
    repaired = _run(weekly_bench, instance, second)
    assert repaired.success, step_failures(repaired)
    assert _requests(weekly_bench, instance) == []
    assert weekly_bench.coverage().final == IntervalSet([weekly_bench.interval(DAY)])
    assert materialized(instance, weekly_bench.key("edge")) == {DAY}


def test_retries_stop_after_three_attempts(
    weekly_bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_FIRST_RETRY_DELAY", timedelta(0))
    weekly_bench.inject_faults(max_rows=1)
    assert not weekly_bench.run(instance, DAY).success
    for _ in range(3):
        (request,) = _requests(weekly_bench, instance)
        assert not _run(weekly_bench, instance, request).success
    assert _requests(weekly_bench, instance) == []
