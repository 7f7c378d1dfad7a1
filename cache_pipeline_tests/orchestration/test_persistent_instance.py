"""Tests of runs on an instance with PostgreSQL storage, which is stricter than one in memory."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml
from dagster_postgres.event_log import PostgresEventLogStorage

from cache_pipeline.orchestration import dagster_compat
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import reuse_connections
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.service.report_service import ReportService
from cache_pipeline_tests.orchestration.workbench import (
    LAYERS,
    STAGED_CHECKS,
    Bench,
    materialized,
    recorded_evaluations,
    step_failures,
)

DAYS = ["2024-06-10", "2024-06-11"]


@pytest.fixture
def persistent_instance(home: Path) -> Generator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def test_project_instance_file_uses_the_tested_storage(home: Path) -> None:
    project = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    tested = yaml.safe_load((home / "dagster.yaml").read_text())
    assert project["storage"] == tested["storage"]


def test_same_day_can_fail_and_pass_repeatedly(bench: Bench, persistent_instance: dg.DagsterInstance) -> None:
    bench.inject_faults(max_rows=1)
    assert not bench.run(persistent_instance, DAYS[0]).success
    assert not bench.run(persistent_instance, DAYS[0]).success
    assert {one.passed for one in recorded_evaluations(persistent_instance, bench.check("completeness"))} == {False}

    bench.inject_faults(max_rows=40)
    for refetch in (False, True):
        result = bench.run(persistent_instance, *DAYS, refetch=refetch)
        assert result.success, step_failures(result)
    for layer in LAYERS:
        assert materialized(persistent_instance, bench.key(layer)) == set(DAYS)
    for name in STAGED_CHECKS:
        evaluations = recorded_evaluations(persistent_instance, bench.check(name))
        passed = [str(one.partition) for one in evaluations if one.passed]
        assert sorted(passed) == sorted(2 * [*DAYS, "None"])
        assert evaluations[-1].passed


def test_materialisations_of_a_step_are_written_in_batches(
    bench: Bench, persistent_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_sizes: list[int] = []
    store = PostgresEventLogStorage.store_event_batch

    def counting(self: PostgresEventLogStorage, events: Sequence[dg.EventLogEntry]) -> None:
        batch_sizes.append(len(events))
        store(self, events)

    monkeypatch.setattr(PostgresEventLogStorage, "store_event_batch", counting)
    days = [f"2024-06-{day}" for day in range(10, 15)]
    result = bench.run(persistent_instance, days[0], days[-1])
    assert result.success, step_failures(result)
    assert batch_sizes.count(len(days)) == len(LAYERS)
    for layer in LAYERS:
        assert materialized(persistent_instance, bench.key(layer)) == set(days)


def test_fetch_takes_a_slot_of_the_vendors_pool(bench: Bench, home: Path) -> None:
    config = yaml.safe_load((home / "dagster.yaml").read_text())
    project = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    config["concurrency"] = {"pools": project["concurrency"]["pools"]}
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    taken: list[tuple[int, int]] = []
    with dg.DagsterInstance.from_config(str(home)) as instance:

        class Watched(EngineResource):
            @asynccontextmanager
            async def service(self) -> AsyncGenerator[ReportService]:
                pool = instance.event_log_storage.get_concurrency_info("genesys_api")
                taken.append((pool.active_slot_count, pool.slot_count))
                async with EngineResource.service(self) as service:
                    yield service

        defs = build_defs(
            reports={bench.report.name: bench.report}, resource_overrides={"cache_pipeline__engine": Watched()}
        )
        result = defs.resolve_job_def(job_name(bench.report)).execute_in_process(
            instance=instance, partition_key=DAYS[0], asset_selection=[bench.key("staged")]
        )
        assert result.success
    assert taken[0] == (1, config["concurrency"]["pools"]["default_limit"])


def _count_sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT sessions FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row
    return row[0]


def test_run_reuses_connections_to_storage(
    bench: Bench, persistent_instance: dg.DagsterInstance, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_sessions(first_day: int) -> int:
        before = _count_sessions(postgres_database)
        result = bench.run(persistent_instance, f"2024-06-{first_day:02}", f"2024-06-{first_day + 9:02}")
        assert result.success, step_failures(result)
        return _count_sessions(postgres_database) - before

    with monkeypatch.context() as patched:
        patched.setattr(dagster_compat, "_REUSE_SECONDS", 0)
        without_reuse = new_sessions(1)
    assert new_sessions(11) < 0.7 * without_reuse


def test_sensor_tick_leaves_no_connection_open(
    bench: Bench, persistent_instance: dg.DagsterInstance, postgres_database: str
) -> None:
    EngineResource().setup_for_execution(dg.build_init_resource_context(instance=persistent_instance))
    persistent_instance.get_runs_count()
    with psycopg.connect(postgres_database) as connection:
        still_open = connection.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert still_open == []


def test_closed_connection_is_not_reused(
    persistent_instance: dg.DagsterInstance, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_compat, "_REUSE_SECONDS", 0)
    reuse_connections(persistent_instance)
    persistent_instance.get_runs_count()
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        terminated = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert terminated
    assert persistent_instance.get_runs_count() == 0
