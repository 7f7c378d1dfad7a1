"""Tests with names and values that contain SQL: each survives the way to PostgreSQL and back, or is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cache_pipeline.bootstrap.reports import Declarations, report_columns
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.schema import rows_to_table, sort_rows, to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline_tests.query.declared import FIELDS, grouped
from cache_pipeline_tests.storage.sample_rows import HOUR, NOW, hours

HOSTILE = (
    'x"; DROP TABLE public.innocent; --',
    "x'; DROP TABLE public.innocent; --",
    "%s",
    "%(name)s",
    "{0}",
    ":bound",
    "a\\",
    "$1",
    "$$; DROP TABLE public.innocent; $$",
    "/*",
    "oid",
    "select",
    "ctid",
    "interval_start",
    "series",
    "Ünïcode",
    "",
    "a\x00b",
    "a\nb",
    "x" * 64,
)
NAMES = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=70))
TABLES = "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2"
INTERVAL = hours(0, 2)


@pytest.fixture
def database(postgres_database):
    migrate(postgres_database, [])
    with psycopg.connect(postgres_database) as connection:
        connection.execute("CREATE TABLE public.innocent AS SELECT 42 AS answer")
    return postgres_database


def read_declaration(**changes):
    """Write a declaration to a file and read it. Return None if it is refused."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.yaml"
        fields = {**FIELDS, "time_zone": "UTC", "volume_metric": None, **changes}
        path.write_text(json.dumps(grouped({name: value for name, value in fields.items() if value is not None})))
        try:
            return Declarations().read(path)
        except DeclarationError:
            return None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dimension=NAMES, metric=NAMES, values=st.lists(st.one_of(NAMES, st.none()), max_size=3, unique=True))
@example(dimension=HOSTILE[0], metric=HOSTILE[1], values=list(HOSTILE[:4]))
@example(dimension="%s", metric="%(name)s", values=["%s"])
@example(dimension=":bound", metric="a\\", values=["\\"])
@example(dimension="oid", metric="select", values=["'"])
@example(dimension="ctid", metric="xmin", values=["'"])
def test_hostile_names_are_stored_unchanged_or_refused(database, dimension, metric, values):
    report = read_declaration(group_by=[dimension], metrics=[metric])
    if report is None:
        return
    values = [value for value in values if value is None or "\x00" not in value]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS history.queue_hour CASCADE")
        connection.execute("TRUNCATE cache_pipeline_state.coverage, cache_pipeline_state.fetch_time")
        before = connection.execute(TABLES).fetchall()
        columns = report_columns(report)
        migrate(database, [(report, columns)])
        migrate(database, [(report, columns)])
        series = Series(report, "tenant")
        group, figure = (column.name for column in columns)
        rows = rows_to_table(
            [
                {"interval_start": start, "interval_end": start + HOUR, group: value, figure: number}
                for number, value in enumerate(values)
                for start in (INTERVAL.start, INTERVAL.start + HOUR)
            ],
            to_arrow_schema(columns),
        )
        with open_history(database) as history:
            history.replace(
                Replacement(
                    series=series,
                    final=IntervalSet([INTERVAL]),
                    provisional=IntervalSet(),
                    rows=Rows.from_table(rows),
                    watermark=datetime(2026, 2, 1, tzinfo=UTC),
                    fetch_times=(FetchTime(IntervalSet([INTERVAL]), NOW),),
                )
            )
            assert history.read(series, INTERVAL, columns).equals(sort_rows(rows))
        assert connection.execute(TABLES).fetchall() == sorted(
            [*before, ("history", "queue_hour"), ("reporting", "queue_hour")]
        )
        assert connection.execute("SELECT answer FROM public.innocent").fetchall() == [(42,)]


@given(name=NAMES)
def test_report_name_must_be_a_plain_word(name):
    report = read_declaration(name=name)
    assert report is None or (report.name == name and name.isascii() and name.replace("_", "").isalnum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_by": ["queueId", "queue_id"]}, "second column"),
        ({"metrics": ["series"]}, "second column"),
        ({"metrics": ["ctid"]}, "second column"),
        ({"metrics": ["x" * 64]}, "63 bytes"),
        ({"metrics": ["a\x07b"]}, "unprintable"),
        ({"metrics": [""]}, "at least 1 character"),
    ],
)
def test_impossible_column_name_is_refused(tmp_path, changes, message):
    path = tmp_path / "report.yaml"
    path.write_text(json.dumps(grouped({**FIELDS, **changes, "volume_metric": None})))
    with pytest.raises(DeclarationError, match=message):
        Declarations().read(path)
