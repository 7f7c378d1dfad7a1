"""A run uses the declaration it was planned with, from the fetch to the last tier, and publishes only what history holds."""

import asyncio
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.service.consistency import compare_tiers
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    Bench,
    declaration,
    materialized,
    recorded_evaluations,
    step_failures,
    write_reports,
)

DAY, NEXT = "2024-06-10", "2024-06-11"
VOICE = {"predicates": [{"dimension": "mediaType", "values": ["voice"]}]}


def test_declaration_edited_during_a_run_changes_nothing_of_it(
    bench: Bench, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert bench.run(instance, DAY, layer="staged").success
    edited = declaration(filters=VOICE)
    write_reports(tmp_path / "reports", [edited])
    for layer in ("history", "hot", "edge"):
        assert bench.run(instance, DAY, layer=layer).success
    interval = bench.interval(DAY)
    assert bench.coverage().final.covers(interval)
    with open_history(read_settings().required_postgres_url()) as history:
        assert not history.coverage(Series(Report.model_validate(edited))).final
    published = bench.edge().read(bench.report, interval)
    assert sum(published["n_offered"].to_pylist()) == bench.vendor_total(interval)
    assert bench.edge().manifest().datasets["calls_hour"].series == bench.series.id


def test_report_of_another_folder_is_published(bench: Bench, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """The folder of the settings declares another report of the same name."""
    write_reports(tmp_path / "reports", [declaration(filters=VOICE)])
    job = build_defs(reports={"calls_hour": bench.report}).resolve_job_def("calls_hour_job")
    result = job.execute_in_process(instance=instance, partition_key=DAY, raise_on_error=False)
    assert result.success, step_failures(result)
    (tmp_path / "reports" / "calls_hour.yaml").unlink()
    write_reports(tmp_path / "reports", [declaration(name="another")])
    result = job.execute_in_process(instance=instance, partition_key=NEXT, raise_on_error=False)
    assert result.success, step_failures(result)
    assert bench.coverage().final.covers(bench.interval(DAY, NEXT))


@pytest.mark.parametrize(
    "changes", [{"partition": "week"}, {"time_zone": "America/New_York"}, {"time_zone": "UTC"}], ids=str
)
def test_partition_staged_under_another_declaration_is_fetched_again(
    bench: Bench, instance: dg.DagsterInstance, changes: dict[str, str]
) -> None:
    monday = "2024-06-10"
    assert bench.run(instance, monday, layer="staged").success
    report = Report.model_validate(declaration(**changes))
    changed = Bench(report, bench.admin, bench.data)
    result = changed.run(instance, monday)
    assert result.success, step_failures(result)
    interval = changed.interval(monday)
    assert interval != bench.interval(monday)
    published = changed.edge().read(report, interval)
    assert sum(published["n_offered"].to_pylist()) == bench.vendor_total(interval)


def test_edge_alone_publishes_nothing_that_history_lacks(bench: Bench, instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.Failure, match="history lacks 1 parts of what calls_hour/edge should publish"):
        bench.run(instance, DAY, layer="edge", raise_on_error=True)
    assert bench.edge().manifest().datasets == {}
    assert materialized(instance, bench.key("edge")) == set()


def test_edge_publishes_the_stored_part_of_a_range_and_names_the_rest(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    assert bench.run(instance, DAY).success
    with pytest.raises(dg.Failure, match="history lacks 1 parts"):
        bench.run(instance, DAY, NEXT, layer="edge", raise_on_error=True)
    [file] = bench.edge().manifest().datasets["calls_hour"].files
    assert file.covered_intervals() == IntervalSet([bench.interval(DAY)])


def _tiers_agree(bench: Bench, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    bench.run(instance, DAY)
    return recorded_evaluations(instance, bench.check("tiers_agree", "edge"))[-1]


@pytest.mark.parametrize("hour", [0, 12])
def test_tiers_disagree_if_edge_claims_what_history_lacks(
    bench: Bench, instance: dg.DagsterInstance, postgres_database: str, hour: int
) -> None:
    """An hour without rows is no difference of figures: only the claim that it is complete differs."""
    assert _tiers_agree(bench, instance).passed
    start = bench.interval(DAY).start + timedelta(hours=hour)
    lost = Interval(start, start + timedelta(hours=1))
    with psycopg.connect(postgres_database) as connection:
        connection.execute("DELETE FROM history.calls_hour WHERE interval_start = %s", [lost.start])
        connection.execute(
            "UPDATE cache_pipeline_state.coverage SET final = final - tstzmultirange(tstzrange(%s, %s))",
            [lost.start, lost.end],
        )
    report, edge = bench.report, bench.edge()
    rows = edge.read(report, lost)
    edge.publish(report, {lost: rows.slice(0, 0)}, None)
    differences = asyncio.run(_compare(bench, bench.interval(DAY)))
    assert f"{lost}: Parquet claims to hold it, and history does not" in differences


async def _compare(bench: Bench, interval: Interval) -> list[str]:
    async with EngineResource().service() as service:
        return await compare_tiers(service, bench.edge(), bench.report, [interval])


def test_tiers_disagree_if_edge_lacks_what_history_holds(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert _tiers_agree(bench, instance).passed
    assert bench.run(instance, NEXT, layer="staged").success
    assert bench.run(instance, NEXT, layer="history").success
    with_both = Interval(bench.interval(DAY).start, bench.interval(NEXT).end)

    assert f"{bench.interval(NEXT)}: history holds it, and Parquet does not" in asyncio.run(_compare(bench, with_both))
