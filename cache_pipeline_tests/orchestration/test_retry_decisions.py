"""A failed completeness check leads to smaller chunks, a few times and no more (C3)."""

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
from cache_pipeline_tests.orchestration.workbench import Bench, bench_of, declared, failures, materialized, recorded
from cache_pipeline_tests.query.declared import declared as report_of

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
WAIT = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("granularity", "chunk", "ladder"),
    [
        ("PT1H", "P1M", ["P1W", "P1D"]),
        ("PT15M", "P1D", ["PT1H", "PT30M"]),
        ("PT30M", "P1D", ["PT1H"]),
        ("P1D", "P1W", []),
        ("PT1H", "PT1H", []),
    ],
)
def test_each_attempt_asks_in_smaller_chunks_but_never_for_what_could_not_be_judged(
    granularity: str, chunk: str, ladder: list[str]
) -> None:
    assert smaller_chunks(report_of(granularity=granularity, max_query_interval=chunk)) == ladder


def test_the_vendor_is_left_alone_twice_as_long_each_time_and_then_for_good() -> None:
    report = report_of(granularity="PT15M", max_query_interval="P1D")

    def due(attempts: int, minutes: float) -> list[str]:
        failed = IncompletePartition("day", NOW - timedelta(minutes=minutes), attempts)
        return [again.chunk for again in decide_retries(report, [failed], NOW, wait=WAIT, at_most=3)]

    assert [due(0, 4.9), due(0, 5), due(1, 9.9), due(1, 10)] == [[], ["PT1H"], [], ["PT30M"]]
    assert [due(2, 20), due(3, 10_000)] == [["PT30M"], []]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=30), st.integers(0, 5))
def test_a_tick_asks_for_a_few_and_each_failure_asks_once(known: list[tuple[int, int]], at_most: int) -> None:
    failed = [IncompletePartition(str(number), NOW - timedelta(hours=age), 0) for number, age in dict(known).items()]
    found = decide_retries(report_of(), failed, NOW, wait=WAIT, at_most=at_most)
    assert len(found) <= at_most
    assert len({(again.key, again.state, again.attempt) for again in found}) == len(found)


def test_a_check_that_passes_ends_the_count_and_runs_in_between_begin_none() -> None:
    def at(minute: int) -> datetime:
        return NOW + timedelta(minutes=minute)

    told = [
        Evaluation(*each)
        for each in (("a", at(1), False, 0), ("a", at(2), False, 1), ("a", at(3), False, 0), ("b", at(1), False, 2))
    ]
    assert find_incomplete_partitions(told) == [IncompletePartition("a", at(3), 1), IncompletePartition("b", at(1), 2)]
    assert find_incomplete_partitions([*told, Evaluation("a", at(4), True, 0)]) == [IncompletePartition("b", at(1), 2)]
    anew = find_incomplete_partitions([*told, Evaluation("a", at(4), True, 0), Evaluation("a", at(5), False, 0)])
    assert IncompletePartition("a", at(5), 0) in anew


DAY = "2024-06-10"


@pytest.fixture
def weekly(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with bench_of(servers, tmp_path, declared(max_query_interval="P1W")) as bench:
        yield bench


def _asked(bench: Bench, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    sensor = bench.definitions().resolve_sensor_def("incomplete_sensor")
    with dg.build_sensor_context(instance=instance) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def _run(bench: Bench, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    config: Any = request.run_config
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    return job.execute_in_process(instance=instance, run_config=config, tags=dict(request.tags), raise_on_error=False)


def test_a_partition_that_fails_its_check_is_asked_again_in_smaller_chunks_until_it_passes(
    weekly: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_FIRST_RETRY_DELAY", timedelta(0))
    assert _asked(weekly, instance) == []
    weekly.fault(max_rows=1)
    assert not weekly.run(instance, DAY).success
    (first,) = _asked(weekly, instance)
    assert _asked(weekly, instance)[0].run_key == first.run_key, "the same failure asks once"
    assert first.run_config["ops"]["staged__calls_hour"]["config"] == {"max_query_interval": "P1D", "retry_attempt": 1}

    assert not _run(weekly, instance, first).success
    told = [one for one in recorded(instance, weekly.check("completeness")) if one.partition == DAY]
    assert [
        (one.passed, one.metadata["retry attempt"].value, one.metadata["max query interval"].value) for one in told
    ] == [
        (False, 0, "P1W"),
        (False, 1, "P1D"),
    ]
    (second,) = _asked(weekly, instance)
    assert second.run_config["ops"]["staged__calls_hour"]["config"] == {"max_query_interval": "P1D", "retry_attempt": 2}

    weekly.mended()
    mended = _run(weekly, instance, second)
    assert mended.success, failures(mended)
    assert _asked(weekly, instance) == []
    assert weekly.coverage().final == IntervalSet([weekly.interval(DAY)])
    assert materialized(instance, weekly.key("edge")) == {DAY}


def test_a_vendor_that_never_mends_itself_is_left_alone_after_three_attempts(
    weekly: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "_FIRST_RETRY_DELAY", timedelta(0))
    weekly.fault(max_rows=1)
    assert not weekly.run(instance, DAY).success
    for _ in range(3):
        (request,) = _asked(weekly, instance)
        assert not _run(weekly, instance, request).success
    assert _asked(weekly, instance) == []
