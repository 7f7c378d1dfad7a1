"""Tests of migrations: our own tables, and one table per declared report."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from cache_pipeline.errors import DeclarationConflict, HistoryRefused, HistoryUnavailable, UnknownSchemaVersion
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres import migrate as module
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate, pending_changes
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import REPORT, SERIES, columns_of, hours, replacement

COLUMNS = columns_of(REPORT)


def tables(url: str) -> dict[str, dict[str, str]]:
    """Return the type of each column of each of our tables."""
    found: dict[str, dict[str, str]] = {}
    with psycopg.connect(url) as connection:
        for schema, table, column, kind in connection.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema IN ('history', 'cache_pipeline_state') ORDER BY ordinal_position"
        ):
            found.setdefault(f"{schema}.{table}", {})[column] = kind
    return found


def test_report_gets_a_table_with_typed_columns(postgres_database: str):
    migrate(postgres_database, [(REPORT, COLUMNS)])
    assert tables(postgres_database)["history.queue_hour"] == {
        "series": "text",
        "interval_start": "timestamp with time zone",
        "interval_end": "timestamp with time zone",
        "queue_id": "text",
        "answered": "bigint",
        "offered": "bigint",
        "longest": "double precision",
    }


def test_migrating_twice_changes_nothing_and_keeps_rows(history_url: str, history: PostgresHistory):
    history.replace(replacement(hours(0, 6)))
    before = tables(history_url)
    migrate(history_url, [(REPORT, COLUMNS)])
    assert tables(history_url) == before
    assert history.read(Series(REPORT), hours(0, 6), COLUMNS).num_rows == 12


def test_own_tables_are_migrated_to_the_newest_revision(history_url: str):
    assert pending_changes(history_url, [(REPORT, COLUMNS)]) == []
    with psycopg.connect(history_url) as connection:
        revisions = connection.execute("SELECT version_num FROM cache_pipeline_state.alembic_version").fetchall()
    assert revisions == [("0008_problem_since",)]
    assert {name.removeprefix("cache_pipeline_state.") for name in tables(history_url)} == {
        "access_token",
        "ad_hoc_series",
        "alembic_version",
        "api_key",
        "chunk_result",
        "coverage",
        "entity_name",
        "lookup",
        "dead_letter",
        "fetch_time",
        "forget_salt",
        "forgotten_request",
        "finality_change",
        "history.kept",
        "history.queue_hour",
        "job",
        "submitted_query",
        "time_travel",
        "truncation_stats",
        "upstream_query",
        "warehouse_export",
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cache_pipeline_state.alembic_version SET version_num = '0007'",
        "INSERT INTO cache_pipeline_state.alembic_version VALUES ('0007')",
    ],
)
def test_unknown_revision_is_refused_without_changes(history_url: str, history: PostgresHistory, statement: str):
    history.replace(replacement(hours(0, 6)))
    with psycopg.connect(history_url) as connection:
        connection.execute(statement)
    before = tables(history_url)
    with pytest.raises(
        UnknownSchemaVersion, match=r"migration 0007.*; install the version of cache_pipeline"
    ) as refused:
        migrate(history_url, [(REPORT, COLUMNS)])
    assert not refused.value.retryable
    with pytest.raises(UnknownSchemaVersion, match="0007"):
        pending_changes(history_url, [(REPORT, COLUMNS)])
    assert tables(history_url) == before
    assert history.read(Series(REPORT), hours(0, 6), COLUMNS).num_rows == 12


def test_new_column_is_added_and_rows_stay(history_url: str):
    with open_history(history_url) as history:
        history.replace(replacement(hours(0, 6)))
    wider = declared(time_zone="UTC", group_by=["queueId", "mediaType"], metrics=["offered", "answered", "abandoned"])
    migrate(history_url, [(wider, columns_of(wider))])
    with open_history(history_url) as history:
        series = Series(wider)
        history.replace(replacement(hours(0, 3), series=series, offered=5))
        assert history.read(series, hours(0, 24), columns_of(wider))["abandoned"].to_pylist() == [5] * 6
        assert history.read(Series(REPORT), hours(0, 24), COLUMNS)["offered"].to_pylist() == [1] * 12


def test_undeclared_column_is_kept(history_url: str):
    narrower = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"])
    migrate(history_url, [(narrower, columns_of(narrower))])
    assert "answered" in tables(history_url)["history.queue_hour"]


def test_changed_column_type_is_refused_without_changes(history_url: str):
    before = tables(history_url)
    changed = tuple(replace(each, kind=ColumnKind.number) if each.name == "offered" else each for each in COLUMNS)
    another = declared(name="another")
    with pytest.raises(DeclarationConflict, match=r"column offered of history\.queue_hour .* under a new name"):
        migrate(history_url, [(another, columns_of(another)), (REPORT, changed)])
    assert tables(history_url) == before


def test_foreign_tables_are_left_alone(postgres_database: str):
    with psycopg.connect(postgres_database) as connection:
        connection.execute(
            "CREATE SCHEMA history; CREATE TABLE history.mine (a int); CREATE TABLE public.queue_hour (b int)"
        )
    migrate(postgres_database, [(REPORT, COLUMNS)])
    assert tables(postgres_database)["history.mine"] == {"a": "integer"}
    assert "queue_id" in tables(postgres_database)["history.queue_hour"]


@pytest.mark.parametrize("name", ["user", "a" * 47, "select", "coverage"])
def test_any_report_name_makes_a_table(postgres_database: str, name: str):
    report = declared(name=name, time_zone="UTC", group_by=["queueId"])
    for _ in range(2):
        migrate(postgres_database, [(report, columns_of(report))])
    with open_history(postgres_database) as history:
        history.replace(replacement(hours(0, 1), series=Series(report)))
        assert history.read(Series(report), hours(0, 1), columns_of(report)).num_rows == 2


def test_column_may_be_named_like_a_keyword(postgres_database: str):
    columns = (*COLUMNS, Column("order", ColumnKind.integer), Column('odd"name', ColumnKind.integer))
    for _ in range(2):
        migrate(postgres_database, [(REPORT, columns)])
    assert tables(postgres_database)["history.queue_hour"].keys() >= {"order", 'odd"name'}


def test_threads_may_migrate_concurrently(postgres_database: str):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate(postgres_database, [(REPORT, COLUMNS)]), range(4)))
    assert tables(postgres_database).keys() >= {"history.queue_hour", "cache_pipeline_state.coverage"}


_MIGRATE = """
import sys
from cache_pipeline.storage.postgres.migrate import migrate, pending_changes
from cache_pipeline_tests.storage.sample_rows import REPORT, SERIES, columns_of
sys.stdin.readline()
migrate(sys.argv[1], [(REPORT, columns_of(REPORT))])
"""


def test_processes_may_migrate_concurrently(postgres_database: str):
    processes = [
        subprocess.Popen([sys.executable, "-c", _MIGRATE, postgres_database], stdin=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0]
    assert tables(postgres_database).keys() >= {"history.queue_hour", "cache_pipeline_state.coverage"}


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:planted x@[h/p", "planted", "postgresql://u:%zzplanted@h/p"],
)
def test_malformed_url_is_one_clear_error_without_its_password(url: str):
    with pytest.raises(HistoryRefused, match="CACHE_PIPELINE_POSTGRES_URL") as raised:
        migrate(url, [])
    assert "planted" not in f"{raised.value} {raised.value.remedy} {raised.value.__cause__}"


@pytest.mark.parametrize("step", ["command.upgrade", "missing_version_tables", "outdated_views"])
def test_server_that_fails_over_meanwhile_is_unavailable(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, step: str
):
    def end_the_connection(*_arguments: object) -> list[Any]:
        with psycopg.connect(postgres_database, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return original(*_arguments)

    owner, _, name = f"{module.__name__}.{step}".rpartition(".")
    original = getattr(module.command if owner.endswith("command") else module, name)
    monkeypatch.setattr(f"{owner}.{name}", end_the_connection)
    with pytest.raises(HistoryUnavailable, match="cannot be reached"):
        migrate(postgres_database, [(REPORT, COLUMNS)])


def test_standby_is_unavailable_until_it_is_promoted(postgres_database: str):
    with psycopg.connect(postgres_database, autocommit=True) as server:
        name = server.info.dbname
        server.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(Identifier(name)))
        with pytest.raises(HistoryUnavailable, match="target_session_attrs=read-write"):
            migrate(postgres_database, [(REPORT, COLUMNS)])
        server.execute(SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(Identifier(name)))
    migrate(postgres_database, [(REPORT, COLUMNS)])


def test_history_can_be_opened_before_its_server_answers(history_url: str):
    with (
        open_history("postgresql://127.0.0.1:1/example") as away,
        pytest.raises(HistoryUnavailable, match=r"127\.0\.0\.1"),
    ):
        away.coverage(SERIES)
    with open_history(history_url) as history:
        assert history.coverage(SERIES) is not None
