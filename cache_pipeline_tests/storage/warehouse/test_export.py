"""Tests of exports of history: to DuckDB, to Parquet files and to PostgreSQL, each of them real."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.service.export import Exporter, ExportResult
from cache_pipeline.storage.postgres.history import PostgresHistory
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline.storage.postgres.warehouse_exports import PostgresExportRecords, open_export_records
from cache_pipeline.storage.warehouse.base import ExportRunning, WarehouseRefused, WarehouseUnavailable
from cache_pipeline.storage.warehouse.destinations import dataset_name, open_warehouse
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import DAY, NOW, REPORT, columns_of, hours, replacement, table
from cache_pipeline_tests.storage.warehouse.conftest import COLUMNS, Rows

#: The sample day, and the next one.
FIRST, SECOND = hours(0, 24), hours(24, 48)
SECRET = "planted-secret-value"


class Export:
    """One warehouse, and the history that is exported to it."""

    def __init__(self, history: PostgresHistory, records: PostgresExportRecords, url: str, folder: Path) -> None:
        self.history, self.records, self.url, self.folder = history, records, url, folder

    def exporter(self, report: Report = REPORT, url: str | None = None) -> Exporter:
        return Exporter(
            self.history,
            open_warehouse(url or self.url, self.folder),
            self.records,
            Series(report),
            columns_of(report),
            dataset_name(url or self.url, "default"),
        )

    def run(self, report: Report = REPORT, *wanted: Interval, everything: bool = False) -> ExportResult:
        return self.exporter(report).export(wanted or None, NOW, everything=everything)

    def rows(self, columns: str = COLUMNS) -> Rows:
        """Read the warehouse."""
        if self.url.startswith("postgresql"):
            with psycopg.connect(self.url) as connection:
                query = f"SELECT {columns} FROM cache_pipeline.queue_hour"
                found = connection.execute(query).fetchall()  # pyright: ignore[reportArgumentType]
        else:
            path = self.url.partition("://")[2]
            with duckdb.connect(path if self.url.startswith("duckdb") else ":memory:") as connection:
                source = (
                    "cache_pipeline.queue_hour"
                    if self.url.startswith("duckdb")
                    else f"read_parquet('{path}/cache_pipeline/queue_hour/*.parquet')"
                )
                found = connection.execute(f"SELECT {columns} FROM {source}").fetchall()
        return sorted((tuple(row) for row in found), key=str)


@pytest.fixture(params=["duckdb", "files", "postgresql"])
def export(
    request: pytest.FixtureRequest, history: PostgresHistory, history_url: str, postgres_database: str, tmp_path: Path
) -> Iterator[Export]:
    """Yield an export to one kind of warehouse."""
    urls = {
        "duckdb": f"duckdb://{tmp_path}/warehouse.duckdb",
        "files": f"file://{tmp_path}/lake",
        "postgresql": postgres_database,
    }
    with open_export_records(history_url) as records:
        yield Export(history, records, urls[request.param], tmp_path / "data")


@pytest.fixture
def duckdb_export(history: PostgresHistory, history_url: str, tmp_path: Path) -> Iterator[Export]:
    """Yield an export to DuckDB."""
    with open_export_records(history_url) as records:
        yield Export(history, records, f"duckdb://{tmp_path}/warehouse.duckdb", tmp_path / "data")


def same(rows: Rows) -> Rows:
    """Return rows whose instants compare whatever zone a driver gives them."""
    return sorted(
        (tuple(value.timestamp() if isinstance(value, datetime) else value for value in row) for row in rows), key=str
    )


def test_export_equals_history_after_restatements(export: Export, view_rows: Callable[[], Rows]) -> None:
    export.history.replace(replacement(FIRST, hours(24, 30)))
    first = export.run()
    assert (len(first.exported), first.provisional, first.rows) == (2, 1, 60)
    assert same(export.rows()) == same(view_rows())

    export.history.replace(replacement(hours(0, 2), offered=7, fetched_at=NOW + timedelta(hours=1)))
    export.history.replace(replacement(SECOND, offered=3, fetched_at=NOW + timedelta(hours=2)))
    second = export.run()
    assert (len(second.exported), second.provisional, second.rows) == (2, 0, 96)
    assert same(export.rows()) == same(view_rows())
    assert all(row[-1] for row in export.rows())
    fetched = {row[0].timestamp() for row in export.rows("fetched_at")}
    assert fetched == {(NOW + timedelta(hours=hour)).timestamp() for hour in (0, 1, 2)}
    assert export.rows("DISTINCT declaration") == [(Series(REPORT).query_id,)]


def test_unchanged_partitions_are_not_exported_again(export: Export, view_rows: Callable[[], Rows]) -> None:
    export.history.replace(replacement(FIRST))
    export.history.replace(replacement(SECOND))
    assert len(export.run().exported) == 2
    again = export.run()
    assert (again.exported, again.unchanged) == ((), 2)
    export.history.replace(replacement(hours(30, 31), offered=9, fetched_at=NOW + timedelta(hours=1)))
    (only,) = export.run().exported
    assert (only.interval, only.is_final, only.rows) == (SECOND, True, 48)
    assert len(export.run(REPORT, hours(1, 2), everything=True).exported) == 1
    assert same(export.rows()) == same(view_rows())


def test_partition_that_lost_all_its_rows_is_emptied(export: Export, view_rows: Callable[[], Rows]) -> None:
    export.history.replace(replacement(FIRST))
    export.history.replace(replacement(SECOND))
    export.run()
    nothing = table(FIRST).slice(0, 0)
    export.history.replace(replacement(FIRST, fetched_at=NOW + timedelta(hours=1), rows=nothing))
    assert [each.rows for each in export.run().exported] == [0]
    assert same(export.rows()) == same(view_rows())
    assert len(export.rows()) == 48


def test_partitions_of_another_length_replace_the_former(export: Export, view_rows: Callable[[], Rows]) -> None:
    export.history.replace(replacement(FIRST))
    export.history.replace(replacement(SECOND))
    export.run()
    weekly = declared(time_zone="UTC", group_by=["queueId"], partition="week")
    assert [each.rows for each in export.run(weekly).exported] == [96]
    assert same(export.rows()) == same(view_rows())
    assert len(export.run().exported) == 2
    assert same(export.rows()) == same(view_rows())


def test_added_metric_becomes_a_column(export: Export, history_url: str) -> None:
    export.history.replace(replacement(FIRST))
    export.run()
    wider = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered", "answered", "abandoned"])
    migrate(history_url, [(wider, columns_of(wider))])
    export.history.replace(replacement(FIRST, series=Series(wider), offered=4, fetched_at=NOW + timedelta(hours=1)))
    assert len(export.run(wider).exported) == 1
    assert export.rows("DISTINCT abandoned, offered") == [(4, 4)]


class Killed(BaseException):
    """Ends an export as a kill does: nothing handles it."""


def test_export_that_was_killed_before_its_record_is_repeated(
    export: Export, view_rows: Callable[[], Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    export.history.replace(replacement(FIRST))
    february = Interval(DAY + timedelta(days=30), DAY + timedelta(days=31))
    export.history.replace(replacement(february))
    record = export.records.record
    calls: list[Any] = []

    def die(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        record(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(export.records, "record", die)
        with pytest.raises(Killed):
            export.run()
    export.history.replace(replacement(hours(0, 1), offered=5, fetched_at=NOW + timedelta(hours=1)))
    resumed = export.run()
    assert [each.interval for each in resumed.exported] == [FIRST, february]
    assert same(export.rows()) == same(view_rows())
    assert export.run().exported == ()


def test_only_one_process_exports_a_report(duckdb_export: Export, history_url: str) -> None:
    duckdb_export.history.replace(replacement(FIRST))
    exporter = duckdb_export.exporter()
    target = f"{exporter.warehouse.name} {exporter.dataset}"
    with psycopg.connect(history_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [f"{target} default queue_hour"])
        with pytest.raises(ExportRunning, match="another process exports queue_hour"):
            duckdb_export.run()
    assert len(duckdb_export.run().exported) == 1


def test_column_of_another_type_is_refused_and_changes_nothing(duckdb_export: Export) -> None:
    duckdb_export.history.replace(replacement(FIRST))
    duckdb_export.run()
    before = duckdb_export.rows()
    with duckdb.connect(duckdb_export.url.partition("://")[2]) as connection:
        connection.execute("UPDATE cache_pipeline._dlt_version SET schema = replace(schema, 'bigint', 'text')")
    duckdb_export.history.replace(replacement(FIRST, offered=2, fetched_at=NOW + timedelta(hours=1)))
    with pytest.raises(WarehouseRefused, match="holds a column of another type"):
        duckdb_export.run()
    assert duckdb_export.rows() == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "queue__hour"}, "table 'queue__hour'"),
        ({"metrics": ["offered", "fetchedAt"], "volume_metric": "offered"}, "'fetched_at'"),
        ({"metrics": ["offered", "größe"], "volume_metric": "offered"}, "column 'größe'"),
    ],
)
def test_names_that_a_database_cannot_hold_are_refused(
    duckdb_export: Export, change: dict[str, Any], problem: str
) -> None:
    report = declared(**({"time_zone": "UTC", "group_by": ["queueId"]} | change))
    with pytest.raises(WarehouseRefused, match=problem):
        duckdb_export.run(report)
    assert not Path(duckdb_export.url.partition("://")[2]).exists()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere",
        f"mssql://someone:{SECRET}@127.0.0.1:1/nowhere?driver=none",
        "file:///proc/nowhere",
        "duckdb:///proc/nowhere/warehouse.duckdb",
    ],
)
def test_warehouse_that_cannot_be_used_is_one_line_without_secrets(duckdb_export: Export, url: str) -> None:
    duckdb_export.history.replace(replacement(FIRST))
    with pytest.raises((WarehouseUnavailable, WarehouseRefused)) as refused:
        duckdb_export.exporter(url=url).export(None, NOW)
    text = f"{refused.value} {refused.value.lines}"
    assert SECRET not in text + repr(refused.value.__cause__) + repr(duckdb_export.exporter(url=url))
    assert "\n" not in str(refused.value)
    assert url.partition("?")[0].replace(f"someone:{SECRET}@", "") in text


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"oracle://u:{SECRET}@host/db", "expected one of az://"),
        (f"mssql://u:{SECRET}@host", "needs a server and a database"),
        ("duckdb://", "needs a file"),
        (f"mssql://u:{SECRET}@host:port/db", "cannot be parsed"),
        ("warehouse.duckdb", "without a scheme"),
    ],
)
def test_url_that_cannot_be_used_is_refused(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(WarehouseRefused, match=problem) as refused:
        open_warehouse(url, tmp_path)
    assert SECRET not in str(refused.value)


def test_datasets_are_named_after_tenants() -> None:
    assert dataset_name("file:///lake", "north") == "cache_pipeline_north"
    assert dataset_name("mssql://h/d?driver=x&dataset=dbo", "north") == "dbo"


def test_half_stored_partition_is_provisional(duckdb_export: Export) -> None:
    duckdb_export.history.replace(replacement(hours(0, 3)))
    (only,) = duckdb_export.run().exported
    assert (only.is_final, only.rows) == (False, 6)
