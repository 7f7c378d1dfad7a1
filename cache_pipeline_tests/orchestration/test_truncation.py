"""Tests of a vendor that truncates answers silently: the day is completed, or nothing of it is published (G13, G22)."""

import dagster as dg
import pytest

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.workbench import (
    TIERS,
    Bench,
    evaluations,
    materialized,
    recorded_evaluations,
    step_failures,
)

DAY = "2024-06-10"


def test_truncated_day_fails_then_passes_its_check(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.inject_faults(max_rows=40)
    result = bench.run(instance, DAY)
    assert result.success, step_failures(result)

    *warnings, of_day, of_all = evaluations(result, bench.check("completeness"))
    assert {(one.partition, one.passed, one.blocking) for one in warnings} == {(DAY, False, False)}
    assert {one.severity for one in warnings} == {dg.AssetCheckSeverity.WARN}, "the parts are being fetched"
    assert "40 rows, 72 expected from declaration: truncated" in str(warnings[0].description)
    assert [(one.partition, one.passed) for one in (of_day, of_all)] == [(DAY, True), (None, True)]
    assert of_day.metadata["truncated chunks"].value == len(warnings)
    assert of_all.description == f"truncated answers, discarded and fetched again in smaller chunks: {len(warnings)}"
    recorded = recorded_evaluations(instance, bench.check("completeness"))
    assert [(one.partition, one.passed) for one in recorded] == [(DAY, True), (None, True)]
    others = [one for name in ("schema", "watermark") for one in evaluations(result, bench.check(name))]
    assert {one.description for one in others} == {None}, "only the completeness check mentions truncation"

    (staged,) = instance.fetch_materializations(bench.key("staged"), limit=1).records
    assert staged.asset_materialization is not None
    metadata = staged.asset_materialization.metadata
    chunks = metadata["chunks of the run"]
    assert isinstance(chunks, dg.TableMetadataValue)
    verdicts = [record.data["verdict"] for record in chunks.records]
    assert verdicts[0] == "truncated"
    assert len([each for each in verdicts if each != "truncated"]) >= 2
    assert set(verdicts) <= {"truncated", "complete", "sparse"}
    assert metadata["truncated chunks"].value == len(warnings)
    assert metadata["calls"].value == bench.count_queries() >= 3

    day = bench.interval(DAY)
    published = bench.edge().read(bench.report, day)
    assert sum(row["n_offered"] for row in published.to_pylist()) == bench.vendor_total(day)


def test_permanent_truncation_fails_and_publishes_nothing(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.inject_faults(max_rows=1)
    with pytest.raises(dg.Failure) as caught:
        bench.run(instance, DAY, raise_on_error=True)
    text = str(caught.value.description)
    assert text.startswith(f"1 of 1 partitions of calls_hour failed; {DAY}: calls_hour 2024-06-")
    assert "the vendor returned 1 rows, but 3 are expected (by declaration), even for a single bucket" in text
    assert text.endswith("narrow the report by filters, or correct expected_groups")
    assert "\n" not in text
    assert not caught.value.allow_retries

    for layer in ("staged", *TIERS):
        assert materialized(instance, bench.key(layer)) == set()
    assert bench.staged_files() == set()
    assert bench.coverage().final | bench.coverage().provisional == IntervalSet()
    assert bench.edge().manifest().datasets == {}
    assert {one.passed for one in recorded_evaluations(instance, bench.check("completeness"))} == {False}


def test_run_succeeds_after_truncation_ends(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.inject_faults(max_rows=1)
    assert not bench.run(instance, DAY).success
    bench.clear_faults()
    assert bench.run(instance, DAY).success
    *_, of_day, of_all = recorded_evaluations(instance, bench.check("completeness"))
    assert [(of_day.partition, of_day.passed), (of_all.partition, of_all.passed)] == [(DAY, True), (None, True)]
    assert bench.coverage().final == IntervalSet([bench.interval(DAY)])
