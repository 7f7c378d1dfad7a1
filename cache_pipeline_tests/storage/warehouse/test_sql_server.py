"""Tests of what an export would send to SQL Server, and of the export itself on a server that the environment names.

CACHE_PIPELINE_TEST_SQLSERVER_URL is, for example, mssql://user:password@host/database?driver=ODBC+Driver+18+for+SQL+Server.
"""

import gzip
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
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

REPOSITORY = Path(__file__).parents[3]
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


@dataclass(frozen=True)
class Statements:
    """What dlt sends to SQL Server for one export of two days."""

    create: list[str]
    merge: list[str]
    inserts: list[str]


@pytest.fixture
def statements(driver: None, tmp_path: Path) -> Statements:
    del driver
    # Imported here, because dlt takes seconds to import.
    from dlt.destinations.impl.mssql.mssql import MsSqlJobClient, MsSqlMergeJob

    pipeline = open_pipeline(read_database(URL), TABLE, tmp_path / "pipeline")
    days = [hours(0, 24), hours(72, 96)]
    pipeline.extract(load_resource(TABLE, days, lambda day: rows_of(TABLE).to_batches() if day == days[0] else []))
    pipeline.normalize()
    with_client: Any = pipeline._get_destination_clients(pipeline.default_schema)[0]
    assert isinstance(with_client, MsSqlJobClient)
    create = with_client._get_table_update_sql("queue_hour", list(pipeline.default_schema.tables["queue_hour"]["columns"].values()), False)  # fmt: skip
    merge = MsSqlMergeJob.generate_sql([with_client.prepare_load_table("queue_hour")], with_client.sql_client)
    inserts = [
        gzip.decompress(file.read_bytes())
        .decode()
        .replace("INSERT INTO {}", 'INSERT INTO "cache_pipeline_staging"."queue_hour"', 1)
        for file in tmp_path.rglob("queue_hour.*.insert_values.gz")
    ]
    assert inserts
    return Statements(create, merge, inserts)


def test_every_statement_is_t_sql(statements: Statements) -> None:
    import sqlglot

    create, merge = statements.create, statements.merge
    kinds = [type(sqlglot.parse_one(each, read="tsql")).__name__ for each in (*create, *merge, *statements.inserts)]
    assert kinds[0] == "Create"
    assert kinds[1:3] == ["Delete", "Insert"]
    assert set(kinds[3:]) == {"Insert"}
    assert "datetimeoffset" in create[0]
    assert "bigint" in create[0]
    assert merge[0].count("interval_start") == 4, "two days that do not touch are two ranges"


@pytest.fixture
def connect_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Start the stand-in with one table, and yield a function that logs in with a password."""
    packages = os.environ.get("CACHE_PIPELINE_TEST_TSQL_PACKAGES", "")
    folder = REPOSITORY / packages
    if not packages or not (folder / "pysqlbridge").is_dir():
        message = "CACHE_PIPELINE_TEST_TSQL_PACKAGES names no folder with pysqlbridge: .ci/run shows how"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    (tmp_path / "figures.csv").write_text('queue_id,offered,longest\nbilling,3,1.5\n"it\'s; DROP",4,\n')
    configuration = {
        "logins": [{"user": "reader", "password": "a-password"}],
        "tables": [{"name": "figures", "csv": str(tmp_path / "figures.csv")}],
    }
    (tmp_path / "stand_in.json").write_text(json.dumps(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pysqlbridge", "--config", str(tmp_path / "stand_in.json"), "--port", str(port)]
    monkeypatch.syspath_prepend(str(folder))
    pymssql = importlib.import_module("pymssql")

    def connect(password: str) -> Any:
        return pymssql.connect(server="127.0.0.1", port=port, user="reader", password=password, database="master")

    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
    ) as server:
        try:
            _wait_until_it_listens(server, port)
            yield connect
        finally:
            # It may ignore SIGTERM, and has nothing to lose.
            server.kill()


def _wait_until_it_listens(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None
        assert time.monotonic() < deadline, "the stand-in does not listen"
        time.sleep(0.05)


def test_statements_run_on_a_stand_in_with_temporary_tables(
    statements: Statements, connect_stand_in: Callable[[str], Any]
) -> None:
    """The stand-in refuses CREATE TABLE and quoted names in a list of columns, so that tables are temporary and names bracketed."""

    def translated(statement: str) -> str:
        for name, temporary in (("cache_pipeline_staging", "#staged"), ("cache_pipeline", "#stored")):
            statement = statement.replace(f'"{name}"."queue_hour"', temporary)
        return re.sub(r'"(\w+)"', r"[\1]", statement)

    with pytest.raises(Exception, match="Login failed for user 'reader'"):
        connect_stand_in("another-password")
    with closing(connect_stand_in("a-password")) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT TOP 1 queue_id, offered, longest FROM figures ORDER BY offered DESC")
        assert cursor.fetchall() == [("it's; DROP", 4, None)]
        cursor.execute("SELECT sum(offered), max(longest) FROM figures")
        assert cursor.fetchall() == [(7, 1.5)]
        (create,) = map(translated, statements.create)
        cursor.execute(create)
        cursor.execute(create.replace("#stored", "#staged"))
        for _ in range(2):
            # An export of the same days, as it is repeated after a kill.
            cursor.execute("DELETE FROM #staged WHERE 1 = 1")
            for statement in (*statements.inserts, *statements.merge):
                cursor.execute(translated(statement))
        cursor.execute("SELECT queue_id, offered, longest, is_final, declaration FROM #stored ORDER BY interval_start")
        stored = rows_of(TABLE).select(["queue_id", "offered", "longest", "is_final", "declaration"])
        assert sorted(cursor.fetchall(), key=str) == sorted(
            (tuple(row.values()) for row in stored.to_pylist()), key=str
        )


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
