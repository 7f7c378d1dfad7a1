"""Tests of the deletion of what a report does not keep any longer: rows, coverage and versions go together."""

from collections.abc import Generator
from datetime import timedelta

import psycopg
import pytest

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.expiry import open_expiry
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, columns_of, hours, replacement

REPORT = declared(time_zone="UTC", group_by=["queueId"], time_travel="P90D", retention="P30D")
SERIES = Series(REPORT)
COLUMNS = columns_of(REPORT)
TABLES = ("coverage", "fetch_time", "finality_change")


@pytest.fixture
def history(postgres_database: str) -> Generator[PostgresHistory]:
    """History of a report that keeps superseded figures."""
    migrate(postgres_database, [(REPORT, COLUMNS)])
    with open_history(postgres_database) as opened:
        yield opened


def expire(url: str, hour: float, tenant: str = "default") -> int:
    with open_expiry(url) as store:
        return store.delete_before(REPORT.name, tenant, hours(hour, hour + 1).start)


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # pyright: ignore[reportArgumentType]
        assert row is not None
        return row[0]


def test_old_rows_coverage_and_versions_go_together(history: PostgresHistory, postgres_database: str) -> None:
    history.replace(replacement(hours(0, 24), hours(24, 30), series=SERIES))
    history.replace(replacement(hours(0, 24), series=SERIES, offered=7, fetched_at=NOW + timedelta(hours=1)))
    versions = f"history_versions.{REPORT.name}"
    assert count(postgres_database, versions) == 48
    assert expire(postgres_database, 20) == 40
    coverage = history.coverage(SERIES, hours(0, 30))
    assert coverage.final == IntervalSet([hours(20, 24)])
    assert coverage.provisional == IntervalSet([hours(24, 30)])
    assert all(each.intervals - IntervalSet([hours(0, 20)]) == each.intervals for each in coverage.fetch_times)
    assert history.read(SERIES, hours(0, 48), COLUMNS).num_rows == 20
    assert count(postgres_database, versions) == 8
    assert history.known_as_of(SERIES, hours(0, 24), NOW + timedelta(days=10_000)).final == IntervalSet([hours(20, 24)])
    assert expire(postgres_database, 20) == 0


def test_nothing_is_left_of_a_series_that_is_too_old(history: PostgresHistory, postgres_database: str) -> None:
    history.replace(replacement(hours(0, 2), series=SERIES))
    assert expire(postgres_database, 48) == 4
    assert {table: count(postgres_database, f"cache_pipeline_state.{table}") for table in TABLES} == dict.fromkeys(TABLES, 0)  # fmt: skip


def test_other_tenants_and_reports_are_left_alone(history: PostgresHistory, postgres_database: str) -> None:
    other = Series(REPORT, "other")
    history.replace(replacement(hours(0, 2), series=SERIES))
    history.replace(replacement(hours(0, 2), series=other))
    assert expire(postgres_database, 1, "other") == 2
    assert history.coverage(SERIES).final == IntervalSet([hours(0, 2)])
    assert history.read(SERIES, hours(0, 2), COLUMNS).num_rows == 4
    assert history.coverage(other).final == IntervalSet([hours(1, 2)])


def test_view_says_how_long_it_keeps_rows(history: PostgresHistory, postgres_database: str) -> None:
    assert history
    with psycopg.connect(postgres_database) as connection:
        (comment,) = connection.execute("SELECT obj_description('reporting.queue_hour'::regclass)").fetchone() or ("",)
    assert "Partitions are deleted 30 days after their end." in comment
