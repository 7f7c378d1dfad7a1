"""Tests of the drift check in Dagster: it warns, shows what it compared, and blocks nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.orchestration.drift_check import describe_comparison
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline.query.drift import Comparison
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.drift_comparison import volume_column
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    TIERS,
    Bench,
    declaration,
    evaluations,
    job_declaration,
    materialized,
    open_bench,
    recorded_evaluations,
    step_failures,
)

MONDAY = "2024-06-10"
WEEKS = range(1, 5)


def _shifted(rows: pa.Table, weeks: int, factor: int) -> pa.Table:
    back = pa.scalar(timedelta(weeks=weeks), pa.duration("us"))
    for name in ("interval_start", "interval_end"):
        moved = pc.subtract(rows[name], back).cast(rows[name].type)
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), moved)
    offered = pc.multiply(rows["n_offered"], factor)
    return rows.set_column(rows.schema.get_field_index("n_offered"), rows.schema.field("n_offered"), offered)


def _store_earlier_mondays(bench: Bench, factor: int) -> None:
    """Store the figures of the day, times a factor, for the four Mondays before."""
    day = bench.interval(MONDAY)
    with open_history(read_settings().required_postgres_url()) as history:
        rows = history.read(bench.series, day, report_columns(bench.report))
        for weeks in WEEKS:
            back = timedelta(weeks=weeks)
            span = IntervalSet([Interval(day.start - back, day.end - back)])
            now = datetime.now(UTC)
            shifted = Rows.from_table(_shifted(rows, weeks, factor))
            history.replace(Replacement(bench.series, span, IntervalSet(), shifted, now, (FetchTime(span, now),)))


def test_drifting_day_warns_and_is_published(bench: Bench, instance: dg.DagsterInstance) -> None:
    first = bench.run(instance, MONDAY)
    assert first.success, step_failures(first)
    of_day, of_all = evaluations(first, bench.check("drift", "history"))
    assert (of_day.partition, of_day.passed, of_all.passed) == (MONDAY, True, True)
    assert of_day.description == "too little history to compare with: 3 comparable days are needed"
    assert of_all.description == f"1 of 1 partitions: {of_day.description}"

    _store_earlier_mondays(bench, 1)
    of_day, of_all = evaluations(bench.run(instance, MONDAY), bench.check("drift", "history"))
    assert (of_day.passed, of_day.metadata["compared"].value, of_all.passed) == (True, 24, True)

    _store_earlier_mondays(bench, 4)
    warned = bench.run(instance, MONDAY)
    assert warned.success, step_failures(warned)
    of_day, of_all = evaluations(warned, bench.check("drift", "history"))
    assert {(one.passed, one.severity) for one in (of_day, of_all)} == {(False, dg.AssetCheckSeverity.WARN)}
    assert of_day.description is not None
    assert " of 24 hours or days differ from comparable ones, most of all Mon 2024-06-10 " in of_day.description
    assert of_all.description == f"1 of 1 partitions differ; {MONDAY}: {of_day.description}"
    table = of_day.metadata["comparison"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == 24
    busiest = max((record.data for record in table.records), key=lambda data: int(str(data["figure"])))
    assert busiest["usual"] == f"{4 * int(str(busiest['figure'])):,}"
    assert (busiest["comparable"], busiest["differs"]) == (len(WEEKS), True)
    assert sum(int(str(record.data["figure"])) for record in table.records) == bench.vendor_total(
        bench.interval(MONDAY)
    )
    for layer in TIERS:
        assert materialized(instance, bench.key(layer)) == {MONDAY}


def test_checks_on_history_can_run_alone(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, MONDAY).success
    job = bench.definitions().resolve_job_def(job_name(bench.report))
    for name in ("drift", "no_open_partitions"):
        single_check = job.get_subset(asset_selection=set(), asset_check_selection={bench.check(name, "history")})
        result = single_check.execute_in_process(instance=instance, tags=range_tags(MONDAY, MONDAY))
        assert {found.check_name for found in result.get_asset_check_evaluations()} == {name}


def test_partial_publish_evaluates_drift(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with open_bench(servers, tmp_path, job_declaration(expected_groups=1)) as bench:
        bench.fail_partitions(MONDAY)
        assert not bench.run(instance, MONDAY, "2024-06-11").success
        (compared,) = recorded_evaluations(instance, bench.check("drift", "history"))
        assert (compared.partition, compared.passed) == ("2024-06-11", True)


def test_report_without_counts_is_compared_by_rows() -> None:
    counting = Report.model_validate(declaration(metrics=["nOffered", "tAbandon"], volume_metric="tAbandon"))
    nothing = Report.model_validate(declaration(metrics=["tHandle"], volume_metric=None))
    assert volume_column(Series(counting), report_columns(counting)) == "t_abandon_count"
    assert volume_column(Series(nothing), report_columns(nothing)) is None


def test_largest_deviation_is_named_in_local_time() -> None:
    report = Report.model_validate(declaration())
    start = datetime(2024, 6, 10, 8, tzinfo=UTC)
    hours = [Interval(start + timedelta(hours=hour), start + timedelta(hours=hour + 1)) for hour in range(3)]
    compared = [
        Comparison(hours[0], 40.0, 4, 100.0, 50.0, 150.0),
        Comparison(hours[1], 900.0, 4, 100.0, 50.0, 150.0),
        Comparison(hours[2], 5.0, 1),
    ]
    assert describe_comparison(compared, report).problem == (
        "2 of 2 hours or days differ from comparable ones, most of all Mon 2024-06-10 11:00: 900, but 100 is usual "
        "and 50 to 150 are within tolerance"
    )
    assert describe_comparison(compared[2:], report).problem == ""
    assert describe_comparison(compared[2:], report).note.startswith("too little history")
    assert describe_comparison([], report).note == ""
