"""Tests of the check that lists open partitions, and of the sensor that updates it."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration import open_partitions_check
from cache_pipeline.orchestration.open_partitions import (
    OpenPartition,
    OpenPartitionsCursor,
    PartitionProblem,
    PartitionState,
    build_evaluation,
    compute_digest,
    find_open_partitions,
)
from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline_tests.orchestration.workbench import Bench, evaluations, job_declaration, open_bench, step_failures

KEYS = ["a", "b", "c", "d", "e"]
HISTORY = dg.AssetKey(["calls", "history"])
OPEN_PARTITIONS = st.builds(
    OpenPartition, st.sampled_from(KEYS), st.sampled_from(PartitionState), st.text(max_size=5), st.integers(0, 9)
)


def test_partition_is_listed_once_by_most_severe_state() -> None:
    found = find_open_partitions(
        KEYS,
        incomplete={"d": PartitionProblem("too few rows", 2)},
        failed={"d": PartitionProblem("the run failed", 5), "a": PartitionProblem("refused", 1)},
        unpublished=["a", "c"],
        provisional=["c", "e", "a"],
    )
    assert [(each.key, str(each.state), each.reason, each.attempts) for each in found] == [
        ("a", "failed", "refused", 1),
        ("c", "unpublished", "staged, but not in history", 0),
        ("d", "incomplete", "too few rows", 2),
        ("e", "provisional", "the vendor may still change the figures", 0),
    ]


def test_check_passes_with_only_provisional_partitions() -> None:
    provisional = OpenPartition("e", PartitionState.provisional, "", 0)
    passed = build_evaluation(HISTORY, "no_open_partitions", [provisional])
    assert (passed.passed, passed.description, passed.metadata["provisional"].value) == (True, "1 provisional", 1)
    failed = build_evaluation(
        HISTORY, "no_open_partitions", [provisional, OpenPartition("f", PartitionState.failed, "refused", 3)]
    )
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert failed.description == "1 failed, 1 provisional; f: refused"
    assert build_evaluation(HISTORY, "no_open_partitions", []).description == "no open partitions"


def test_long_list_shows_most_severe_and_counts_all() -> None:
    many = [OpenPartition(str(number), PartitionState.provisional, "", 0) for number in range(5000)]
    found = build_evaluation(
        HISTORY, "no_open_partitions", [*many, OpenPartition("x", PartitionState.incomplete, "short", 3)]
    )
    table = found.metadata["open partitions"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == 200
    assert table.records[0].data == {"partition": "x", "state": "incomplete", "reason": "short", "attempts": 3}
    assert found.metadata["provisional"].value == 5000


@given(st.lists(OPEN_PARTITIONS, max_size=4, unique=True), st.lists(OPEN_PARTITIONS, max_size=4, unique=True))
def test_digest_differs_exactly_when_open_partitions_differ(
    one: list[OpenPartition], other: list[OpenPartition]
) -> None:
    assert (compute_digest(one) == compute_digest(other)) is (set(one) == set(other))


@given(st.sets(st.text(min_size=1, max_size=3), min_size=1, max_size=20), st.integers(1, 7))
def test_every_report_is_examined_once_per_round(names: set[str], at_most: int) -> None:
    cursor, examined = OpenPartitionsCursor(), list[str]()
    while len(examined) < len(names):
        names_of_tick = cursor.next_reports(names, min(at_most, len(names) - len(examined)))
        assert 0 < len(names_of_tick) <= at_most
        for name in names_of_tick:
            cursor = cursor.advance(name, "x")
        examined += names_of_tick
    assert sorted(examined) == sorted(names)
    assert OpenPartitionsCursor.parse(cursor.serialize()) == cursor


DAYS = ["2024-06-10", "2024-06-11", "2024-06-12"]
MISSING = "history does not hold all of it, and no run is fetching it"


def _tick(bench: Bench, instance: dg.DagsterInstance, cursor: str | None = None) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def("open_partitions_sensor")
    resources = {"cache_pipeline__engine": EngineResource()}
    with dg.build_sensor_context(instance=instance, resources=resources, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


def _updated(tick: SensorExecutionData) -> dg.AssetCheckEvaluation:
    (event,) = tick.asset_events
    assert isinstance(event, dg.AssetCheckEvaluation)
    return event


def _rows(evaluation: dg.AssetCheckEvaluation) -> Sequence[tuple[object, ...]]:
    table = evaluation.metadata["open partitions"]
    assert isinstance(table, dg.TableMetadataValue)
    return [tuple(record.data.values()) for record in table.records]


@pytest.fixture
def unlimited_lookback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sensor look back far enough for the days of these tests."""
    monkeypatch.setattr(open_partitions_check, "_MAX_PARTITIONS", 100_000)


@pytest.mark.usefixtures("unlimited_lookback")
def test_failed_partition_is_reported_until_it_succeeds(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    servers.setenv("CACHE_PIPELINE_PARTITIONS_TO", "2024-06-13")
    with open_bench(servers, tmp_path, job_declaration(expected_groups=1, start=DAYS[0])) as bench:
        unchanged = _tick(bench, instance)
        assert _rows(_updated(unchanged)) == [("2024-06-10 to 2024-06-12", "missing", MISSING, 0)]
        assert _updated(unchanged).metadata["missing"].value == 3
        assert not _updated(unchanged).passed

        bench.fail_partitions(DAYS[0])
        assert not bench.run(instance, DAYS[0], DAYS[-1]).success
        first = _tick(bench, instance, unchanged.cursor)
        ((key, state, reason, attempts),) = _rows(_updated(first))
        assert (key, state, attempts) == (DAYS[0], "failed", 1)
        assert "upstream job" in str(reason)
        assert "a fault on demand" in str(reason)
        assert _tick(bench, instance, first.cursor).asset_events == [], "the same state is reported once"

        assert not bench.run(instance, DAYS[0]).success
        second = _tick(bench, instance, first.cursor)
        assert [row[3] for row in _rows(_updated(second))] == [2]

        bench.clear_faults()
        repaired = bench.run(instance, DAYS[0])
        assert repaired.success, step_failures(repaired)
        (check,) = evaluations(repaired, bench.check("no_open_partitions", "history"))
        assert (check.passed, check.description) == (True, "no open partitions")
        assert _updated(_tick(bench, instance, second.cursor)).passed


@pytest.mark.usefixtures("unlimited_lookback")
def test_incomplete_killed_and_staged_days_are_distinguished(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, DAYS[0], layer="staged").success
    bench.inject_faults(max_rows=1)
    assert not bench.run(instance, DAYS[1]).success
    bench.clear_faults()
    job = bench.definitions().resolve_job_def("calls_hour_job")
    killed = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=range_tags(DAYS[2], DAYS[2]))
    instance.report_run_failed(killed, "its process was killed")
    hours = range_tags("2024-06-12T01:00+0200", "2024-06-12T03:00+0200")

    @dg.job(name=job.name)
    def earlier_job() -> None:
        pass

    earlier_run = instance.create_run_for_job(earlier_job, status=dg.DagsterRunStatus.STARTED, tags=hours)
    instance.report_run_failed(earlier_run, "the report had hourly partitions then")
    rows = {str(row[0]): row[1:] for row in _rows(_updated(_tick(bench, instance)))}
    stretches = [key for key, row in rows.items() if row[0] == "missing"]
    assert stretches[0] == "2024-01-01 to 2024-06-09", "missing since the first day"
    assert stretches[1].startswith("2024-06-13 to ")
    assert rows[DAYS[0]] == ("unpublished", "staged, but not in history", 0)
    state, reason, attempts = rows[DAYS[1]]
    assert (state, attempts) == ("incomplete", 1)
    assert "are expected (by declaration), even for a single bucket" in str(reason)
    assert rows[DAYS[2]] == ("failed", "its run ended with status FAILURE", 1)
