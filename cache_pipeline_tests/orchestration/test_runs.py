"""Whole runs against the simulated vendor: what is fetched, kept, recorded, and not fetched again."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.progress import progress_logger
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.rows.rows import Rows
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    LAYERS,
    SECRETS,
    STAGED_CHECKS,
    Bench,
    all_words,
    bench_of,
    declared,
    evaluations,
    failures,
    materialized,
)

DAYS = ["2024-06-10", "2024-06-11", "2024-06-12"]


def _sum(rows: pa.Table) -> int:
    return pc.sum(rows["n_offered"]).as_py()


def _metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dict[str, Any]]:
    """The latest materialisation's metadata by partition."""
    records = instance.fetch_materializations(key, limit=100).records
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        event = record.asset_materialization
        assert event is not None
        assert event.partition is not None
        found.setdefault(event.partition, {name: value.value for name, value in event.metadata.items()})
    return found


def test_a_range_run_fetches_checks_and_publishes_every_partition(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, DAYS[0], DAYS[-1])
    assert result.success, failures(result)
    whole = bench.interval(DAYS[0], DAYS[-1])
    truth = bench.truth(whole)
    assert truth > 1000

    for layer in LAYERS:
        assert materialized(instance, bench.key(layer)) == set(DAYS)
    for name in STAGED_CHECKS:
        *each, together = evaluations(result, bench.check(name))
        assert sorted(str(one.partition) for one in each) == DAYS
        assert together.partition is None
        assert {(one.passed, one.blocking) for one in (*each, together)} == {(True, True)}
    (agree,) = evaluations(result, bench.check("tiers_agree", "edge"))
    assert agree.passed
    assert agree.metadata["partitions"].value == 3

    assert bench.coverage().final == IntervalSet([whole])
    with open_history(read_settings().required_postgres_url()) as history:
        assert _sum(history.read(bench.series, whole, report_columns(bench.report))) == truth
    assert _sum(bench.edge().read(bench.report, whole)) == truth

    metadata = _metadata(instance, bench.key("staged"))
    rows = {day: int(metadata[day]["dagster/partition_row_count"]) for day in DAYS}
    assert all(40 < count <= 72 for count in rows.values())
    assert {metadata[day]["calls"] for day in DAYS} == {1}
    assert {metadata[day]["truncated chunks"] for day in DAYS} == {0}
    assert {metadata[day]["watermark lag (s)"] for day in DAYS} == {0.0}
    assert {metadata[day]["run total"] for day in DAYS} == {f"{sum(rows.values())} rows, 3 calls"}
    kept = _metadata(instance, bench.key("history"))
    assert {day: kept[day]["dagster/partition_row_count"] for day in DAYS} == rows
    published = _metadata(instance, bench.key("edge"))
    assert {published[day]["files uploaded"] for day in DAYS} == {1}, "the month that holds them is one file"
    assert {_metadata(instance, bench.key("hot"))[day]["answers"] for day in DAYS} == {3}


class _Altering(logging.Handler):
    """Takes a row from one staged partition, behind the back of the run that has staged it."""

    def __init__(self, staging: Staging, bench: Bench, key: str) -> None:
        super().__init__()
        self._staging, self._bench, self._key = staging, bench, key

    def emit(self, record: logging.LogRecord) -> None:
        if record.__dict__["done"] == record.__dict__["total"]:
            partition = self._staging.read(self._bench.series, self._key)
            assert partition is not None
            rows = Rows.from_table(partition.rows.to_table().slice(1))
            self._staging.write(self._bench.series, replace(partition, rows=rows))


def test_a_partitions_verdicts_are_recorded_as_it_is_staged_and_anew_where_its_file_is_altered_after(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    altering = _Altering(Staging(bench.data / "staged"), bench, DAYS[1])
    progress_logger.addHandler(altering)
    progress_logger.setLevel(logging.INFO)
    try:
        result = bench.run(instance, DAYS[0], DAYS[1])
    finally:
        progress_logger.removeHandler(altering)

    assert not result.success
    kinds = [(event.event_type_value, event.step_key) for event in result.all_events]
    staged = kinds.index(("STEP_SUCCESS", "staged__calls_hour"))
    assert sum(kind == "ASSET_CHECK_EVALUATION" for kind, _ in kinds[:staged]) == len(DAYS[:2]) * len(STAGED_CHECKS)
    told = [(one.partition, one.passed) for one in evaluations(result, bench.check("completeness"))]
    assert sorted(told[:2]) == [(DAYS[0], True), (DAYS[1], True)]
    assert told[2:] == [(DAYS[1], False), (None, False)]
    assert materialized(instance, bench.key("history")) == {DAYS[0]}


def test_a_second_run_asks_the_vendor_nothing_and_a_wish_for_restated_figures_everything(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.asked() == 3
    files = {path: path.stat().st_mtime_ns for path in bench.data.rglob("*.parquet")}

    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.asked() == 0
    assert {path: path.stat().st_mtime_ns for path in bench.data.rglob("*.parquet")} == files

    for path in (bench.data / "staged").rglob("*.parquet"):
        path.unlink()
    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.asked() == 0, "history holds what the lost files held"
    assert bench.staged_files() == set(DAYS)

    assert bench.run(instance, DAYS[1], DAYS[-1], refetch=True).success
    assert bench.asked() == 2


def test_one_partition_runs_by_its_key_alone(bench: Bench, instance: dg.DagsterInstance) -> None:
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    result = job.execute_in_process(instance=instance, partition_key=DAYS[1], raise_on_error=False)
    assert result.success, failures(result)
    for layer in LAYERS:
        assert materialized(instance, bench.key(layer)) == {DAYS[1]}
    for name in STAGED_CHECKS:
        assert {one.passed for one in evaluations(result, bench.check(name))} == {True}
        assert DAYS[1] in {one.partition for one in evaluations(result, bench.check(name))}
    assert bench.coverage().final == IntervalSet([bench.interval(DAYS[1])])
    assert bench.asked() == 1


def test_the_long_day_of_a_clock_change_is_one_partition_of_25_hours(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    result = bench.run(instance, "2024-10-27")
    assert result.success, failures(result)
    day = bench.interval("2024-10-27")
    assert day.length.total_seconds() == 25 * 3600
    assert _sum(bench.edge().read(bench.report, day)) == bench.truth(day)


def test_the_hour_that_a_clock_change_repeats_is_two_partitions_in_every_tier(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    hours = [f"2024-10-27T{hour}" for hour in ("01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100")]
    with bench_of(servers, tmp_path, declared(partition="hour")) as bench:
        result = bench.run(instance, hours[0], hours[-1])
        assert result.success, failures(result)
        for layer in LAYERS:
            assert materialized(instance, bench.key(layer)) == set(hours)
        assert len(bench.staged_files()) == 4
        whole = bench.interval(hours[0], hours[-1])
        assert whole.length.total_seconds() == 4 * 3600
        assert _sum(bench.edge().read(bench.report, whole)) == bench.truth(whole)


def test_a_run_without_a_partition_fails_and_says_what_to_select(bench: Bench, instance: dg.DagsterInstance) -> None:
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert any("the run covers no partition: select at least one" in text for _, text, _ in failures(result))
    assert bench.asked() == 0


def test_no_secret_is_in_anything_that_the_event_log_keeps(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, DAYS[0])
    assert result.success
    words = all_words(instance, result.run_id)
    assert "2024-06-10" in words
    assert json.dumps("staged")[1:-1] in words
    for secret in SECRETS.values():
        assert secret not in words
    assert "Bearer" not in words
