"""Tests of whole runs against the simulated vendor: what is fetched, stored, recorded, and not fetched again."""

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cache_pipeline.bootstrap.reports import report_columns
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
    all_log_text,
    declaration,
    evaluations,
    materialized,
    open_bench,
    step_failures,
)

DAYS = ["2024-06-10", "2024-06-11", "2024-06-12"]


def _sum(rows: pa.Table) -> int:
    return pc.sum(rows["n_offered"]).as_py()


def _metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dict[str, Any]]:
    """Return the metadata of the latest materialisation, by partition."""
    records = instance.fetch_materializations(key, limit=100).records
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        event = record.asset_materialization
        assert event is not None
        assert event.partition is not None
        found.setdefault(event.partition, {name: value.value for name, value in event.metadata.items()})
    return found


def test_files_are_staged_off_the_event_loop(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk delays neither requests in flight, which time out, nor what keeps their locks."""
    on_the_loop: list[str] = []

    def noting(name: str) -> None:
        original = getattr(Staging, name)

        @wraps(original)
        def call(*args: Any, **more: Any) -> Any:
            with suppress(RuntimeError):
                asyncio.get_running_loop()
                on_the_loop.append(name)
            return original(*args, **more)

        monkeypatch.setattr(Staging, name, call)

    for name in ("write", "read", "final_partitions", "delete_old"):
        noting(name)
    assert bench.run(instance, DAYS[0], layer="staged").success
    assert on_the_loop == []


def test_range_run_publishes_every_partition(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, DAYS[0], DAYS[-1])
    assert result.success, step_failures(result)
    full_interval = bench.interval(DAYS[0], DAYS[-1])
    expected = bench.vendor_total(full_interval)
    assert expected > 1000

    for layer in LAYERS:
        assert materialized(instance, bench.key(layer)) == set(DAYS)
    for name in STAGED_CHECKS:
        *by_partition, total = evaluations(result, bench.check(name))
        assert sorted(str(one.partition) for one in by_partition) == DAYS
        assert total.partition is None
        assert {(one.passed, one.blocking) for one in (*by_partition, total)} == {(True, True)}
    (agree,) = evaluations(result, bench.check("tiers_agree", "edge"))
    assert agree.passed
    assert agree.metadata["partitions"].value == 3

    assert bench.coverage().final == IntervalSet([full_interval])
    with open_history(read_settings().required_postgres_url()) as history:
        assert _sum(history.read(bench.series, full_interval, report_columns(bench.report))) == expected
    assert _sum(bench.edge().read(bench.report, full_interval)) == expected

    metadata = _metadata(instance, bench.key("staged"))
    rows = {day: int(metadata[day]["dagster/partition_row_count"]) for day in DAYS}
    assert all(40 < count <= 72 for count in rows.values())
    assert {metadata[day]["calls"] for day in DAYS} == {1}
    assert {metadata[day]["truncated chunks"] for day in DAYS} == {0}
    assert {metadata[day]["watermark lag (s)"] for day in DAYS} == {0.0}
    assert {metadata[day]["run total"] for day in DAYS} == {f"{sum(rows.values())} rows, 3 calls"}
    stored = _metadata(instance, bench.key("history"))
    assert {day: stored[day]["dagster/partition_row_count"] for day in DAYS} == rows
    published = _metadata(instance, bench.key("edge"))
    assert {published[day]["files uploaded"] for day in DAYS} == {1}, "one file holds the month"
    assert {_metadata(instance, bench.key("hot"))[day]["answers"] for day in DAYS} == {3}


class _RowRemover(logging.Handler):
    """Removes a row from one staged partition as soon as the run has staged all partitions."""

    def __init__(self, staging: Staging, bench: Bench, key: str) -> None:
        super().__init__()
        self._staging, self._bench, self._key = staging, bench, key

    def emit(self, record: logging.LogRecord) -> None:
        if record.__dict__["done"] == record.__dict__["total"]:
            partition = self._staging.read(self._bench.series, self._key, self._bench.interval(self._key))
            assert partition is not None
            rows = Rows.from_table(partition.rows.to_table().slice(1))
            self._staging.write(self._bench.series, replace(partition, rows=rows))


def test_checks_are_logged_when_staged_and_when_changed(bench: Bench, instance: dg.DagsterInstance) -> None:
    remover = _RowRemover(Staging(bench.data / "staged"), bench, DAYS[1])
    progress_logger.addHandler(remover)
    progress_logger.setLevel(logging.INFO)
    try:
        result = bench.run(instance, DAYS[0], DAYS[1])
    finally:
        progress_logger.removeHandler(remover)

    assert not result.success
    kinds = [(event.event_type_value, event.step_key) for event in result.all_events]
    staged = kinds.index(("STEP_SUCCESS", "staged__calls_hour"))
    assert sum(kind == "ASSET_CHECK_EVALUATION" for kind, _ in kinds[:staged]) == len(DAYS[:2]) * len(STAGED_CHECKS)
    results = [(one.partition, one.passed) for one in evaluations(result, bench.check("completeness"))]
    assert sorted(results[:2]) == [(DAYS[0], True), (DAYS[1], True)]
    assert results[2:] == [(DAYS[1], False), (None, False)]
    assert materialized(instance, bench.key("history")) == {DAYS[0]}


def test_second_run_fetches_nothing_unless_refetching(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.count_queries() == 3
    files = {path: path.stat().st_mtime_ns for path in bench.data.rglob("*.parquet")}

    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.count_queries() == 0
    assert {path: path.stat().st_mtime_ns for path in bench.data.rglob("*.parquet")} == files

    for path in (bench.data / "staged").rglob("*.parquet"):
        path.unlink()
    assert bench.run(instance, DAYS[0], DAYS[-1]).success
    assert bench.count_queries() == 0, "the lost files are restored from history"
    assert bench.staged_files() == set(DAYS)

    assert bench.run(instance, DAYS[1], DAYS[-1], refetch=True).success
    assert bench.count_queries() == 2


def test_single_partition_runs_by_key(bench: Bench, instance: dg.DagsterInstance) -> None:
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    result = job.execute_in_process(instance=instance, partition_key=DAYS[1], raise_on_error=False)
    assert result.success, step_failures(result)
    for layer in LAYERS:
        assert materialized(instance, bench.key(layer)) == {DAYS[1]}
    for name in STAGED_CHECKS:
        assert {one.passed for one in evaluations(result, bench.check(name))} == {True}
        assert DAYS[1] in {one.partition for one in evaluations(result, bench.check(name))}
    assert bench.coverage().final == IntervalSet([bench.interval(DAYS[1])])
    assert bench.count_queries() == 1


def test_day_of_25_hours_is_one_partition(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, "2024-10-27")
    assert result.success, step_failures(result)
    day = bench.interval("2024-10-27")
    assert day.length.total_seconds() == 25 * 3600
    assert _sum(bench.edge().read(bench.report, day)) == bench.vendor_total(day)


def test_repeated_hour_is_two_partitions_in_every_tier(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    hours = [f"2024-10-27T{hour}" for hour in ("01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100")]
    with open_bench(servers, tmp_path, declaration(partition="hour")) as bench:
        result = bench.run(instance, hours[0], hours[-1])
        assert result.success, step_failures(result)
        for layer in LAYERS:
            assert materialized(instance, bench.key(layer)) == set(hours)
        assert len(bench.staged_files()) == 4
        full_interval = bench.interval(hours[0], hours[-1])
        assert full_interval.length.total_seconds() == 4 * 3600
        assert _sum(bench.edge().read(bench.report, full_interval)) == bench.vendor_total(full_interval)


def test_run_without_partition_says_what_to_select(bench: Bench, instance: dg.DagsterInstance) -> None:
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert any("the run covers no partition: select at least one" in text for _, text, _ in step_failures(result))
    assert bench.count_queries() == 0


def test_event_log_contains_no_secret(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, DAYS[0])
    assert result.success
    log = all_log_text(instance, result.run_id)
    assert "2024-06-10" in log
    assert json.dumps("staged")[1:-1] in log
    for secret in SECRETS.values():
        assert secret not in log
    assert "Bearer" not in log
