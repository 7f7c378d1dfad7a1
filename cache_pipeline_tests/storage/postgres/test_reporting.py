"""Tests of the views that analysts query: which rows and columns they show, and to whom."""

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from cache_pipeline.errors import DeclarationConflict
from cache_pipeline.query.names import ListedName
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, find_invalid_names
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate, pending_changes
from cache_pipeline.storage.postgres.names import open_names
from cache_pipeline.storage.postgres.reporting import report_view
from cache_pipeline.storage.postgres.schemas import reporting_schema
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import REPORT, columns_of, hours, replacement

BERLIN = declared(time_zone="Europe/Berlin", group_by=["queueId"])
WIDER = declared(time_zone="Europe/Berlin", group_by=["queueId"], metrics=["offered", "answered", "abandoned"])
#: A name that has to be quoted, as each test's role has.
READER = "the reader's role"


def _migrate(url: str, report: Report = BERLIN, tenant: str = "default") -> None:
    migrate(url, [(report, columns_of(report))], tenant)


def _rows(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()  # pyright: ignore[reportArgumentType]


@pytest.fixture
def stored(postgres_database: str) -> Generator[PostgresHistory]:
    """Yield history with the table and the view of one report."""
    _migrate(postgres_database)
    with open_history(postgres_database) as history:
        yield history


def test_view_has_local_times_columns_and_finality_in_order() -> None:
    rows = (Column("start_time", ColumnKind.instant), Column("t_handle", ColumnKind.integer, description="Handled"))
    view = report_view(BERLIN, rows, "default", {})
    assert [column.name for column in view.columns] == [
        *("interval_start", "interval_start_local", "interval_end", "interval_end_local"),
        *("start_time", "start_time_local", "t_handle", "is_final"),
    ]
    assert view.columns[6].comment == "Handled"
    assert (view.schema, reporting_schema("north-1")) == ("reporting", "reporting_north-1")


@pytest.mark.parametrize("name", ["is_final", "interval_start_local", "start_local"])
def test_names_that_a_view_adds_are_reserved(name: str) -> None:
    columns = [Column("start", ColumnKind.instant), Column(name, ColumnKind.integer, source="vendorName")]
    ((column, problem),) = find_invalid_names(columns)
    assert (column.name, problem) == (name, f"'vendorName' would be a second column '{name}'")


def test_view_shows_only_the_current_declaration_of_one_tenant(stored: PostgresHistory, postgres_database: str) -> None:
    filtered = declared(
        time_zone="Europe/Berlin",
        group_by=["queueId"],
        filters={"type": "or", "predicates": [{"dimension": "mediaType", "operator": "in", "values": ["voice"]}]},
    )
    _migrate(postgres_database, filtered)
    _migrate(postgres_database, tenant="other")
    stored.replace(replacement(hours(0, 3), series=Series(BERLIN)))
    stored.replace(replacement(hours(0, 1), series=Series(filtered), offered=7))
    stored.replace(replacement(hours(0, 2), series=Series(BERLIN, "other"), offered=9))
    assert {row["offered"] for row in _rows(postgres_database, "SELECT * FROM reporting.queue_hour")} == {7}
    _migrate(postgres_database)
    (total,) = _rows(postgres_database, "SELECT count(*), sum(offered) FROM reporting.queue_hour")
    assert total == {"count": 6, "sum": 6}, "the view follows the declaration back"
    (other,) = _rows(postgres_database, "SELECT sum(offered) FROM reporting_other.queue_hour")
    assert other == {"sum": 36}


def test_names_stand_beside_ids(stored: PostgresHistory, postgres_database: str) -> None:
    columns = columns_of(BERLIN)
    migrate(postgres_database, [(BERLIN, columns)], lookups={BERLIN.name: {"queue_id": "queues"}})
    stored.replace(replacement(hours(0, 1), series=Series(BERLIN)))
    scope = NameScope("default", BERLIN.account_id)
    with open_names(postgres_database) as names:
        names.update(scope, "queues", {"q1": ListedName("Billing")}, datetime(2026, 1, 1, tzinfo=UTC))
        names.update(scope, "queues", {"q1": ListedName("Invoices")}, datetime(2026, 1, 6, tzinfo=UTC))
        names.update(NameScope("other", BERLIN.account_id), "queues", {"q1": ListedName("Theirs")}, datetime.now(UTC))
    rows = _rows(postgres_database, "SELECT queue_id, queue_name FROM reporting.queue_hour ORDER BY queue_id")
    assert {row["queue_id"]: row["queue_name"] for row in rows} == {"q1": "Invoices", "q2": "q2"}
    # A query that selects no names reads no table of names.
    plan = _rows(postgres_database, "EXPLAIN SELECT sum(offered) FROM reporting.queue_hour")
    assert "entity_name" not in str(plan)


def test_times_are_local_and_provisional_rows_are_not_final(stored: PostgresHistory, postgres_database: str) -> None:
    stored.replace(replacement(hours(0, 2), hours(2, 3), series=Series(BERLIN)))
    rows = _rows(postgres_database, "SELECT * FROM reporting.queue_hour WHERE queue_id = 'q1' ORDER BY interval_start")
    assert [row["interval_start_local"] for row in rows] == [datetime(2026, 1, 5, hour) for hour in (1, 2, 3)]  # noqa: DTZ001 - a wall clock's time
    assert [row["interval_end_local"].hour for row in rows] == [2, 3, 4]
    assert [row["is_final"] for row in rows] == [True, True, False]


def test_columns_are_typed_and_commented(postgres_database: str) -> None:
    _migrate(postgres_database)
    columns = _rows(
        postgres_database,
        "SELECT column_name, data_type, col_description('reporting.queue_hour'::regclass, ordinal_position) AS comment"
        " FROM information_schema.columns WHERE table_schema = 'reporting' ORDER BY ordinal_position",
    )
    types = {row["column_name"]: row["data_type"] for row in columns}
    assert types["interval_start_local"] == "timestamp without time zone"
    assert (types["queue_id"], types["offered"], types["longest"]) == ("text", "bigint", "double precision")
    assert types["is_final"] == "boolean"
    assert all(row["comment"] for row in columns)


@pytest.fixture
def reader(postgres_database: str) -> Generator[str]:
    """Create a role that may read the views and nothing else, as the documentation says."""
    _migrate(postgres_database)
    role = psycopg.sql.Identifier(READER)
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE ROLE {}").format(role))
        connection.execute(psycopg.sql.SQL("GRANT USAGE ON SCHEMA reporting TO {}").format(role))
        connection.execute(psycopg.sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO {}").format(role))
        yield READER
        connection.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


@pytest.mark.usefixtures("reader")
def test_readers_keep_a_view_that_is_made_again_and_see_no_tables(postgres_database: str) -> None:
    assert pending_changes(postgres_database, [(WIDER, columns_of(WIDER))]) == [
        "column abandoned is missing",
        "view reporting.queue_hour is missing or shows an earlier declaration",
    ]
    _migrate(postgres_database, WIDER)
    assert pending_changes(postgres_database, [(WIDER, columns_of(WIDER))]) == []
    with psycopg.connect(postgres_database) as connection:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(READER)))
        assert connection.execute("SELECT abandoned FROM reporting.queue_hour").fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM history.queue_hour")


def test_unchanged_view_is_left_alone(postgres_database: str) -> None:
    _migrate(postgres_database)
    query = "SELECT 'reporting.queue_hour'::regclass::oid::int AS view"
    before = _rows(postgres_database, query)
    _migrate(postgres_database)
    assert _rows(postgres_database, query) == before


def test_view_that_others_use_is_not_dropped(postgres_database: str) -> None:
    _migrate(postgres_database)
    with psycopg.connect(postgres_database) as connection:
        connection.execute("CREATE VIEW weekly AS SELECT * FROM reporting.queue_hour")
    with pytest.raises(
        DeclarationConflict, match=r"view weekly depends on view reporting\.queue_hour.*migrate, and create"
    ):
        _migrate(postgres_database, WIDER)
    assert _rows(postgres_database, "SELECT * FROM weekly") == []


def test_zone_that_the_server_does_not_know_is_refused(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zone:
        key = "Europe/Nowhere"

    monkeypatch.setattr(Report, "zone", Zone())
    with pytest.raises(DeclarationConflict, match="does not know the time zone Europe/Nowhere of queue_hour"):
        _migrate(postgres_database, REPORT)
