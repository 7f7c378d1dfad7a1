"""Runs on an instance whose storage is PostgreSQL, as it is in use: what an in-memory one forgives, it does not."""

from collections.abc import Generator, Sequence
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml
from dagster_postgres.event_log import PostgresEventLogStorage

from cache_pipeline.orchestration import dagster_compat as dagster_storage
from cache_pipeline.orchestration.dagster_compat import reuse_connections
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline_tests.orchestration.workbench import (
    LAYERS,
    STAGED_CHECKS,
    Bench,
    failures,
    materialized,
    recorded,
)

DAYS = ["2024-06-10", "2024-06-11"]


@pytest.fixture
def kept_instance(home: Path) -> Generator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def test_the_projects_own_instance_file_is_one_that_dagster_takes(home: Path) -> None:
    theirs = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    ours = yaml.safe_load((home / "dagster.yaml").read_text())
    assert theirs["storage"] == ours["storage"]


def test_the_same_day_can_fail_and_fail_and_pass_and_pass_again(
    bench: Bench, kept_instance: dg.DagsterInstance
) -> None:
    bench.fault(max_rows=1)
    assert not bench.run(kept_instance, DAYS[0]).success
    assert not bench.run(kept_instance, DAYS[0]).success
    assert {one.passed for one in recorded(kept_instance, bench.check("completeness"))} == {False}

    bench.fault(max_rows=40)
    for refetch in (False, True):
        result = bench.run(kept_instance, *DAYS, refetch=refetch)
        assert result.success, failures(result)
    for layer in LAYERS:
        assert materialized(kept_instance, bench.key(layer)) == set(DAYS)
    for name in STAGED_CHECKS:
        evaluations = recorded(kept_instance, bench.check(name))
        passed = [str(one.partition) for one in evaluations if one.passed]
        assert sorted(passed) == sorted(2 * [*DAYS, "None"])
        assert evaluations[-1].passed


def test_the_materialisations_of_a_step_are_written_at_once(
    bench: Bench, kept_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    store = PostgresEventLogStorage.store_event_batch

    def counting(self: PostgresEventLogStorage, events: Sequence[dg.EventLogEntry]) -> None:
        written.append(len(events))
        store(self, events)

    monkeypatch.setattr(PostgresEventLogStorage, "store_event_batch", counting)
    days = [f"2024-06-{day}" for day in range(10, 15)]
    result = bench.run(kept_instance, days[0], days[-1])
    assert result.success, failures(result)
    assert written.count(len(days)) == len(LAYERS)
    for layer in LAYERS:
        assert materialized(kept_instance, bench.key(layer)) == set(days)


def _sessions_begun(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT sessions FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row
    return row[0]


def test_a_run_uses_its_connections_to_dagsters_storage_again(
    bench: Bench, kept_instance: dg.DagsterInstance, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(first_day: int) -> int:
        before = _sessions_begun(postgres_database)
        result = bench.run(kept_instance, f"2024-06-{first_day:02}", f"2024-06-{first_day + 9:02}")
        assert result.success, failures(result)
        return _sessions_begun(postgres_database) - before

    with monkeypatch.context() as patched:
        patched.setattr(dagster_storage, "_REUSE_SECONDS", 0)
        one_for_each_write = begun(1)
    assert begun(11) < 0.7 * one_for_each_write


def test_a_tick_of_a_sensor_leaves_no_connection_behind(
    bench: Bench, kept_instance: dg.DagsterInstance, postgres_database: str
) -> None:
    EngineResource().setup_for_execution(dg.build_init_resource_context(instance=kept_instance))
    kept_instance.get_runs_count()
    with psycopg.connect(postgres_database) as connection:
        left = connection.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert left == []


def test_a_kept_connection_that_a_restart_has_ended_is_not_used(
    kept_instance: dg.DagsterInstance, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_storage, "_REUSE_SECONDS", 0)
    reuse_connections(kept_instance)
    kept_instance.get_runs_count()
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert ended
    assert kept_instance.get_runs_count() == 0
