"""What is left of a report is seen in the UI: which partitions, why, and after how many attempts."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration import open_partitions_check as inventory_check
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
from cache_pipeline_tests.orchestration.workbench import Bench, bench_of, declared_by_job, evaluations, failures

KEYS = ["a", "b", "c", "d", "e"]
HISTORY = dg.AssetKey(["history", "calls"])
LEFT = st.builds(
    OpenPartition, st.sampled_from(KEYS), st.sampled_from(PartitionState), st.text(max_size=5), st.integers(0, 9)
)


def test_each_partition_stands_once_by_its_gravest_trouble_in_order_of_time() -> None:
    left = find_open_partitions(
        KEYS,
        incomplete={"d": PartitionProblem("too few rows", 2)},
        failed={"d": PartitionProblem("the run failed", 5), "a": PartitionProblem("refused", 1)},
        unpublished=["a", "c"],
        provisional=["c", "e", "a"],
    )
    assert [(each.key, str(each.state), each.reason, each.attempts) for each in left] == [
        ("a", "failed", "refused", 1),
        ("c", "unpublished", "staged, but not in history", 0),
        ("d", "incomplete", "too few rows", 2),
        ("e", "provisional", "the vendor may still change the figures", 0),
    ]


def test_only_figures_that_time_alone_makes_final_leave_the_check_passed() -> None:
    provisional = OpenPartition("e", PartitionState.provisional, "", 0)
    passed = build_evaluation(HISTORY, "no_open_partitions", [provisional])
    assert (passed.passed, passed.description, passed.metadata["provisional"].value) == (True, "1 provisional", 1)
    failed = build_evaluation(
        HISTORY, "no_open_partitions", [provisional, OpenPartition("f", PartitionState.failed, "refused", 3)]
    )
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert failed.description == "1 failed, 1 provisional; f: refused"
    assert build_evaluation(HISTORY, "no_open_partitions", []).description == "no open partitions"


def test_a_long_inventory_shows_the_gravest_and_counts_all() -> None:
    many = [OpenPartition(str(number), PartitionState.provisional, "", 0) for number in range(5000)]
    found = build_evaluation(
        HISTORY, "no_open_partitions", [*many, OpenPartition("x", PartitionState.incomplete, "short", 3)]
    )
    table = found.metadata["open partitions"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == 200
    assert table.records[0].data == {"partition": "x", "state": "incomplete", "reason": "short", "attempts": 3}
    assert found.metadata["provisional"].value == 5000


@given(st.lists(LEFT, max_size=4, unique=True), st.lists(LEFT, max_size=4, unique=True))
def test_the_digest_differs_exactly_where_what_is_left_does(
    one: list[OpenPartition], other: list[OpenPartition]
) -> None:
    assert (compute_digest(one) == compute_digest(other)) is (set(one) == set(other))


@given(st.sets(st.text(min_size=1, max_size=3), min_size=1, max_size=20), st.integers(1, 7))
def test_every_report_has_its_turn_once_before_any_has_it_again(names: set[str], at_most: int) -> None:
    seen, turns = OpenPartitionsCursor(), list[str]()
    while len(turns) < len(names):
        turn = seen.next_reports(names, min(at_most, len(names) - len(turns)))
        assert 0 < len(turn) <= at_most
        for name in turn:
            seen = seen.advance(name, "x")
        turns += turn
    assert sorted(turns) == sorted(names)
    assert OpenPartitionsCursor.parse(seen.serialize()) == seen


DAYS = ["2024-06-10", "2024-06-11", "2024-06-12"]


def _tick(bench: Bench, instance: dg.DagsterInstance, cursor: str | None = None) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def("open_partitions_sensor")
    resources = {"engine": EngineResource()}
    with dg.build_sensor_context(instance=instance, resources=resources, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


def _told(tick: SensorExecutionData) -> dg.AssetCheckEvaluation:
    (event,) = tick.asset_events
    assert isinstance(event, dg.AssetCheckEvaluation)
    return event


def _rows(evaluation: dg.AssetCheckEvaluation) -> Sequence[tuple[object, ...]]:
    table = evaluation.metadata["open partitions"]
    assert isinstance(table, dg.TableMetadataValue)
    return [tuple(record.data.values()) for record in table.records]


@pytest.fixture
def by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The days of these tests are among those looked at."""
    monkeypatch.setattr(inventory_check, "_LOOKBACK", timedelta(days=36500))


@pytest.mark.usefixtures("by_the_clock")
def test_what_failed_is_shown_once_with_its_reason_counted_at_each_attempt_and_gone_when_it_is_mended(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with bench_of(servers, tmp_path, declared_by_job(expected_groups=1)) as bench:
        quiet = _tick(bench, instance)
        assert (quiet.asset_events, quiet.skip_message) == ([], "nothing has changed")

        bench.fault(fail_jobs=1)
        assert not bench.run(instance, DAYS[0], DAYS[-1]).success
        first = _tick(bench, instance, quiet.cursor)
        ((key, standing, reason, attempts),) = _rows(_told(first))
        assert (key, standing, attempts) == (DAYS[0], "failed", 1)
        assert "upstream job" in str(reason)
        assert "a fault on demand" in str(reason)
        assert _tick(bench, instance, first.cursor).asset_events == [], "the same state is told once"

        bench.fault(fail_jobs=1)
        assert not bench.run(instance, DAYS[0]).success
        second = _tick(bench, instance, first.cursor)
        assert [row[3] for row in _rows(_told(second))] == [2]

        mended = bench.run(instance, DAYS[0])
        assert mended.success, failures(mended)
        (check,) = evaluations(mended, bench.check("no_open_partitions", "history"))
        assert (check.passed, check.description) == (True, "no open partitions")
        assert _told(_tick(bench, instance, second.cursor)).passed


@pytest.mark.usefixtures("by_the_clock")
def test_an_incomplete_day_a_killed_one_and_one_that_was_only_staged_are_told_apart(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    assert bench.run(instance, DAYS[0], only="staged").success
    bench.fault(max_rows=1)
    assert not bench.run(instance, DAYS[1]).success
    bench.mended()
    job = bench.definitions().resolve_job_def("calls_hour_job")
    dead = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=range_tags(DAYS[2], DAYS[2]))
    instance.report_run_failed(dead, "its process was killed")
    hours = range_tags("2024-06-12T01:00+0200", "2024-06-12T03:00+0200")

    @dg.job(name=job.name)
    def job_of_before() -> None:
        pass

    of_another_cadence = instance.create_run_for_job(job_of_before, status=dg.DagsterRunStatus.STARTED, tags=hours)
    instance.report_run_failed(of_another_cadence, "the report was by hour then")
    rows = {row[0]: row[1:] for row in _rows(_told(_tick(bench, instance)))}
    assert rows[DAYS[0]] == ("unpublished", "staged, but not in history", 0)
    standing, reason, attempts = rows[DAYS[1]]
    assert (standing, attempts) == ("incomplete", 1)
    assert "are expected (by declaration) even for a single bucket" in str(reason)
    assert rows[DAYS[2]] == ("failed", "its run ended with status FAILURE", 1)
