"""Tests of the asset that exports history to a warehouse."""

from pathlib import Path

import dagster as dg
import duckdb
import pytest

from cache_pipeline_tests.orchestration.workbench import (
    Bench,
    all_log_text,
    declaration,
    materialized,
    open_bench,
    step_failures,
)

DAYS = ["2024-06-10", "2024-06-11"]
SECRET = "planted-secret-value"


def open_exported(servers: pytest.MonkeyPatch, folder: Path, url: str):
    servers.setenv("CACHE_PIPELINE_WAREHOUSE_URL", url)
    return open_bench(servers, folder, declaration(warehouse=True))


def test_job_exports_what_it_stored_and_repeats_nothing(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    with open_exported(servers, tmp_path, f"duckdb://{warehouse}") as bench:
        result = bench.run(instance, DAYS[0], DAYS[-1])
        assert result.success, step_failures(result)
        assert materialized(instance, bench.key("warehouse")) == set(DAYS)
        with duckdb.connect(str(warehouse)) as connection:
            query = "SELECT sum(n_offered)::bigint, bool_and(is_final) FROM cache_pipeline.calls_hour"
            found = connection.execute(query).fetchone()
        assert found == (bench.vendor_total(bench.interval(DAYS[0], DAYS[-1])), True)
        assert exported_partitions(instance, bench) == 2
        again = bench.run(instance, DAYS[0], DAYS[-1], layer="warehouse")
        assert again.success, step_failures(again)
        assert exported_partitions(instance, bench) == 0


def exported_partitions(instance: dg.DagsterInstance, bench: Bench) -> object:
    (record,) = instance.fetch_materializations(bench.key("warehouse"), limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata["partitions exported"].value


def test_unreachable_warehouse_fails_its_asset_alone(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with open_exported(servers, tmp_path, f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere") as bench:
        result = bench.run(instance, DAYS[0])
        ((step, _, failure),) = step_failures(result)
        assert step == "warehouse__calls_hour"
        assert "warehouse postgresql://127.0.0.1:1/nowhere cannot be used" in str(failure)
        assert SECRET not in all_log_text(instance, result.run_id)
        assert materialized(instance, bench.key("edge")) == {DAYS[0]}
