"""Tests that a process need not migrate a database that is as it should be, and does migrate any other."""

from dataclasses import replace

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from cache_pipeline.errors import HistoryRefused
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline.storage.postgres.schema_check import head_revision, is_up_to_date
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import REPORT, columns_of

COLUMNS = columns_of(REPORT)
DECLARED = [(REPORT, COLUMNS)]


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", "cache_pipeline:storage/postgres/migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [head_revision()]


def test_empty_database_is_not_up_to_date(postgres_database: str):
    assert not is_up_to_date(postgres_database, DECLARED)


def test_migrated_database_is_up_to_date(postgres_database: str):
    migrate(postgres_database, DECLARED)
    assert is_up_to_date(postgres_database, DECLARED)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cache_pipeline_state.alembic_version SET version_num = '0001_baseline'",
        "DROP INDEX history.queue_hour_series_interval",
        "DROP VIEW reporting.queue_hour",
        "COMMENT ON VIEW reporting.queue_hour IS 'an earlier declaration'",
        "DROP TABLE history.queue_hour CASCADE",
    ],
)
def test_what_is_missing_or_outdated_is_found(postgres_database: str, statement: str):
    migrate(postgres_database, DECLARED)
    with psycopg.connect(postgres_database) as connection:
        connection.execute(statement)
    assert not is_up_to_date(postgres_database, DECLARED)


def test_edited_declarations_are_found(postgres_database: str):
    migrate(postgres_database, DECLARED)
    added = (*COLUMNS, Column("transferred", ColumnKind.integer, nullable=True))
    retyped = tuple(
        replace(column, kind=ColumnKind.dimension) if column.name == "offered" else column for column in COLUMNS
    )
    assert not is_up_to_date(postgres_database, [(REPORT, added)])
    assert not is_up_to_date(postgres_database, [(REPORT, retyped)])
    assert not is_up_to_date(postgres_database, [*DECLARED, (declared(name="another"), COLUMNS)])
    assert not is_up_to_date(postgres_database, [(REPORT.model_copy(update={"time_travel": True}), COLUMNS)])
    assert not is_up_to_date(postgres_database, DECLARED, "other_tenant")


def test_malformed_url_is_refused():
    with pytest.raises(HistoryRefused, match="CACHE_PIPELINE_POSTGRES_URL"):
        is_up_to_date("postgresql://user:pass word@[::1", DECLARED)
