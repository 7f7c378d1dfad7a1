"""Tests of what an export would send to SQL Server, and of the export itself on a server that the environment names.

CACHE_PIPELINE_TEST_SQLSERVER_URL is, for example, mssql://user:password@host/database?driver=ODBC+Driver+18+for+SQL+Server.
"""

import gzip
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from cache_pipeline.service.export import warehouse_table
from cache_pipeline.storage.postgres.history import PostgresHistory
from cache_pipeline.storage.postgres.warehouse_exports import open_export_records
from cache_pipeline.storage.warehouse.base import WarehouseTable
from cache_pipeline.storage.warehouse.databases import load_resource, open_pipeline
from cache_pipeline.storage.warehouse.destinations import read_database
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, columns_of, hours, replacement, table
from cache_pipeline_tests.storage.warehouse.conftest import COLUMNS, Rows
from cache_pipeline_tests.storage.warehouse.test_export import Export, same

SERVER = os.environ.get("CACHE_PIPELINE_TEST_SQLSERVER_URL", "")
URL = "mssql://someone:a-password@server/figures?driver=ODBC+Driver+18+for+SQL+Server"
TABLE = warehouse_table(REPORT, columns_of(REPORT), "cache_pipeline")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the driver where Debian's libodbc2 is missing: making statements needs none of it."""
    try:
        importlib.import_module("pyodbc")
    except ImportError:
        stand_in = ModuleType("pyodbc")
        errors = ("Error", "DatabaseError", "OperationalError", "ProgrammingError", "IntegrityError", "DataError")
        for name in (*errors, "InterfaceError"):
            setattr(stand_in, name, type(name, (Exception,), {}))
        for name in ("Connection", "Cursor", "Row"):
            setattr(stand_in, name, object)
        monkeypatch.setattr(stand_in, "drivers", lambda: ["ODBC Driver 18 for SQL Server"], raising=False)
        monkeypatch.setitem(sys.modules, "pyodbc", stand_in)


def rows_of(table_: WarehouseTable) -> pa.Table:
    """Return rows with every type, an apostrophe, a semicolon and nulls."""
    rows = table(hours(0, 2), queues=("it's; DROP", None))
    own = [pa.array([value] * rows.num_rows, table_.schema.field(name).type) for name, value in
           (("is_final", True), ("fetched_at", NOW), ("declaration", "ab12"))]  # fmt: skip
    return pa.Table.from_arrays([*rows.columns, *own], schema=table_.schema)


@pytest.mark.usefixtures("driver")
def test_every_statement_is_t_sql(tmp_path: Path) -> None:
    # Imported here, because dlt takes seconds to import.
    import sqlglot
    from dlt.destinations.impl.mssql.mssql import MsSqlJobClient, MsSqlMergeJob

    pipeline = open_pipeline(read_database(URL), TABLE, tmp_path / "pipeline")
    days = [hours(0, 24), hours(72, 96)]
    pipeline.extract(load_resource(TABLE, days, lambda day: rows_of(TABLE).to_batches() if day == days[0] else []))
    pipeline.normalize()
    with_client: Any = pipeline._get_destination_clients(pipeline.default_schema)[0]
    assert isinstance(with_client, MsSqlJobClient)
    client = with_client.sql_client
    create = with_client._get_table_update_sql("queue_hour", list(pipeline.default_schema.tables["queue_hour"]["columns"].values()), False)  # fmt: skip
    merge = MsSqlMergeJob.generate_sql([with_client.prepare_load_table("queue_hour")], client)
    inserts = [
        gzip.decompress(file.read_bytes())
        .decode()
        .replace("INSERT INTO {}", "INSERT INTO cache_pipeline.queue_hour", 1)
        for file in tmp_path.rglob("queue_hour.*.insert_values.gz")
    ]
    assert inserts
    kinds = [type(sqlglot.parse_one(statement, read="tsql")).__name__ for statement in (*create, *merge, *inserts)]
    assert kinds[0] == "Create"
    assert kinds[1:3] == ["Delete", "Insert"]
    assert set(kinds[3:]) == {"Insert"}
    assert "datetimeoffset" in create[0]
    assert "bigint" in create[0]
    assert merge[0].count("interval_start") == 4, "two days that do not touch are two ranges"


@pytest.fixture
def sql_server(
    history: PostgresHistory, history_url: str, tmp_path: Path
) -> Iterator[tuple[Export, Callable[[], Rows]]]:
    """Yield an export to a SQL Server, into a schema of its own, and a function that reads it."""
    if not SERVER:
        pytest.skip("CACHE_PIPELINE_TEST_SQLSERVER_URL is not set")
    import pyodbc
    from dlt.destinations.impl.mssql.configuration import MsSqlCredentials
    from dlt.destinations.impl.mssql.sql_client import handle_datetimeoffset

    dsn = MsSqlCredentials(SERVER).to_odbc_dsn()

    def read() -> Rows:
        with pyodbc.connect(dsn) as connection:
            connection.add_output_converter(-155, handle_datetimeoffset)
            return [tuple(row) for row in connection.execute(f"SELECT {COLUMNS} FROM cache_pipeline_test.queue_hour")]

    with open_export_records(history_url) as records:
        url = f"{SERVER}{'&' if '?' in SERVER else '?'}dataset=cache_pipeline_test"
        yield Export(history, records, url, tmp_path / "data"), read
    with pyodbc.connect(dsn, autocommit=True) as connection:
        for schema in ("cache_pipeline_test", "cache_pipeline_test_staging"):
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = ?", schema
            ).fetchall()
            for (name,) in tables:
                connection.execute(f'DROP TABLE "{schema}"."{name}"')
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}"')


def test_sql_server_equals_history_after_restatements(
    sql_server: tuple[Export, Callable[[], Rows]], view_rows: Callable[[], Rows]
) -> None:
    export, read = sql_server
    export.history.replace(replacement(hours(0, 24), hours(24, 30)))
    assert len(export.run().exported) == 2
    assert same(read()) == same(view_rows())
    export.history.replace(replacement(hours(0, 2), offered=7, fetched_at=NOW + timedelta(hours=1)))
    nothing = table(hours(0, 1)).slice(0, 0)
    export.history.replace(replacement(hours(24, 48), fetched_at=NOW + timedelta(hours=2), rows=nothing))
    assert len(export.run().exported) == 2
    assert same(read()) == same(view_rows())
    assert export.run().exported == ()
