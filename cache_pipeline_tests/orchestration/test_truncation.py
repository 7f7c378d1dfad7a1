"""A vendor that says completed and gives too few rows: the day is mended or nothing of it is published (G13, G22)."""

import dagster as dg
import pytest

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.workbench import TIERS, Bench, evaluations, failures, materialized, recorded

DAY = "2024-06-10"


def test_a_truncated_day_fails_its_check_there_and_then_and_passes_it_when_the_parts_have_come(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.fault(max_rows=40)
    result = bench.run(instance, DAY)
    assert result.success, failures(result)

    failed, *passed = recorded(instance, bench.check("completeness"))
    assert (failed.passed, failed.blocking) == (False, True)
    assert failed.description is not None
    assert "40 rows, 72 expected from declaration: truncated" in failed.description
    assert [(one.partition, one.passed) for one in passed] == [(DAY, True), (None, True)]
    (of_day,) = [one for one in passed if one.partition == DAY]
    assert of_day.metadata["truncated chunks"].value == 1
    assert "1 truncated answers of the vendor were discarded" in (passed[-1].description or "")
    others = [one for name in ("schema", "watermark") for one in evaluations(result, bench.check(name))]
    assert {one.description for one in others} == {None}, "only the check that is about rows speaks of truncation"

    (staged,) = instance.fetch_materializations(bench.key("staged"), limit=1).records
    assert staged.asset_materialization is not None
    metadata = staged.asset_materialization.metadata
    chunks = metadata["chunks of the run"]
    assert isinstance(chunks, dg.TableMetadataValue)
    first, *parts = [record.data["verdict"] for record in chunks.records]
    assert first == "truncated"
    assert len(parts) >= 2
    assert set(parts) <= {"complete", "sparse"}
    assert metadata["truncated chunks"].value == 1
    assert metadata["calls"].value == bench.asked() >= 3

    day = bench.interval(DAY)
    published = bench.edge().read(bench.report, day)
    assert sum(row["n_offered"] for row in published.to_pylist()) == bench.truth(day)


def test_truncation_that_nothing_mends_fails_the_run_clearly_and_publishes_nothing(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.fault(max_rows=1)
    with pytest.raises(dg.Failure) as caught:
        bench.run(instance, DAY, raise_on_error=True)
    text = str(caught.value.description)
    assert text.startswith(f"1 of 1 partitions of calls_hour failed; {DAY}: calls_hour 2024-06-")
    assert "the vendor gives 1 rows where 3 are expected (by declaration) even for a single bucket" in text
    assert text.endswith("narrow the report by filters, or mend expected_groups")
    assert "\n" not in text
    assert not caught.value.allow_retries

    for layer in ("staged", *TIERS):
        assert materialized(instance, bench.key(layer)) == set()
    assert bench.staged_files() == set()
    assert bench.coverage().final | bench.coverage().provisional == IntervalSet()
    assert bench.edge().manifest().datasets == {}
    assert {one.passed for one in recorded(instance, bench.check("completeness"))} == {False}


def test_once_the_vendor_gives_whole_answers_again_the_same_run_goes_through(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.fault(max_rows=1)
    assert not bench.run(instance, DAY).success
    bench.mended()
    assert bench.run(instance, DAY).success
    *_, of_day, of_all = recorded(instance, bench.check("completeness"))
    assert [(of_day.partition, of_day.passed), (of_all.partition, of_all.passed)] == [(DAY, True), (None, True)]
    assert bench.coverage().final == IntervalSet([bench.interval(DAY)])
