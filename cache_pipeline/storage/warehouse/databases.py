"""A warehouse in a database that dlt can load: SQL Server, Snowflake, BigQuery, DuckDB, PostgreSQL.

dlt is an optional extra and takes three seconds to import, so only the functions that need it import it. It is configured not to
report anything to its makers, and to keep its files in the deployment's own folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_pipeline.errors import CachePipelineError, first_line
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.warehouse.base import (
    RowsOfPartition,
    WarehouseRefused,
    WarehouseTable,
    WarehouseUnavailable,
)

if TYPE_CHECKING:
    import dlt

#: Every row has it, and it does not depend on the length of partitions.
_BUCKET = "interval_start"
#: The packages whose errors are those of a database, and not defects here.
_DRIVERS = frozenset({"dlt", "duckdb", "_duckdb", "google", "psycopg2", "pyodbc", "snowflake"})


@dataclass(frozen=True)
class Database:
    """A database, as dlt knows it.

    Attributes:
        kind: The name of dlt's destination.
        name: The URL without credentials.
        options: Arguments of the destination, with credentials.
        secrets: What no message may contain.
    """

    kind: str
    name: str
    options: Mapping[str, str] = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset[str](), repr=False)


class DatabaseWarehouse:
    """A database.

    Rows are first loaded into a table beside the report's. A single transaction then deletes the partitions and inserts the
    rows, in databases that have transactions.
    """

    def __init__(self, database: Database, scratch: Path) -> None:
        self._database, self._scratch = database, scratch

    @property
    def name(self) -> str:
        """The URL without credentials."""
        return self._database.name

    def check(self, table: WarehouseTable) -> None:
        """Check that the database can be reached, and that its names allow the table's.

        Raises:
            WarehouseRefused: It cannot hold a name of the table.
            WarehouseUnavailable: It cannot be reached, or refuses the login.
        """
        with self._pipeline(table) as pipeline:
            self._check_names(pipeline, table)
            with pipeline.destination_client() as client:
                client.is_storage_initialized()

    def replace(self, table: WarehouseTable, partitions: Sequence[Interval], rows: RowsOfPartition) -> None:
        """Replace the rows of some partitions, all of them or none.

        Raises:
            WarehouseRefused: A column of the table has another type.
            WarehouseUnavailable: It failed, and nothing of these partitions was replaced.
        """
        with self._pipeline(table) as pipeline:
            pipeline.run(load_resource(table, partitions, rows))
            self._forget_old_versions(pipeline)

    def _forget_old_versions(self, pipeline: dlt.Pipeline) -> None:
        """Delete dlt's earlier versions of the table's schema, which hold the partitions of each load."""
        with pipeline.sql_client() as client:
            versions = client.make_qualified_table_name("_dlt_version")
            name = client.escape_column_name("schema_name")
            inserted = client.escape_column_name("inserted_at")
            client.execute_sql(
                f"DELETE FROM {versions} WHERE {name} = %s AND {inserted} < "  # noqa: S608 - names that dlt has quoted
                f"(SELECT max({inserted}) FROM {versions} WHERE {name} = %s)",
                pipeline.default_schema_name,
                pipeline.default_schema_name,
            )

    def _check_names(self, pipeline: dlt.Pipeline, table: WarehouseTable) -> None:
        import dlt

        naming = dlt.Schema(pipeline.pipeline_name).naming
        limits = pipeline.destination.capabilities()
        longest = limits.max_column_identifier_length or limits.max_identifier_length
        names = {"table": [table.name], "schema": [table.dataset], "column": list(table.schema.names)}
        wrong = [
            f"{kind} {name!r}"
            for kind, each in names.items()
            for name in each
            if naming.normalize_identifier(name) != name or (longest and len(name) > longest)
        ]
        if wrong:
            raise WarehouseRefused(
                f"{self.name} cannot hold {', '.join(wrong)}: names there have at most {longest} lower-case letters, digits and "
                "single underscores; for the schema give another one as ?dataset=name"
            )

    @contextmanager
    def _pipeline(self, table: WarehouseTable) -> Generator[dlt.Pipeline]:
        """Yield dlt's pipeline for a table, in a folder that exists only meanwhile.

        What a killed export left in such a folder must not be loaded: it may be older than what was exported since.
        """
        # The same machine may export several reports, each of which is locked, so each has its own folder.
        key = hashlib.sha256(f"{self.name}/{table.dataset}/{table.name}".encode()).hexdigest()[:16]
        folder = self._scratch / key
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with self._translated_errors():
                yield open_pipeline(self._database, table, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _translated_errors(self) -> Generator[None]:
        try:
            yield
        except CachePipelineError:
            raise
        except Exception as error:
            cause = _find_cause(error)
            if isinstance(cause, CachePipelineError):
                # From history, whose rows dlt was reading.
                raise cause from None
            if type(error).__module__.split(".")[0] not in _DRIVERS:
                raise
            raise self._describe(cause) from None

    def _describe(self, cause: Exception) -> CachePipelineError:
        """Return an error of dlt or a driver as ours."""
        if isinstance(cause, ImportError) or type(cause).__name__ == "MissingDependencyException":
            return WarehouseRefused(
                f"the driver of {self.name} is not installed: pip install 'dlt[{self._database.kind}]'"
            )
        if type(cause).__name__ == "DataValidationError":
            return WarehouseRefused(
                f"{self.name} holds a column of another type: {_contract_problem(cause)}",
                remedy="give the report another name, or drop its table in the warehouse and export with --all",
            )
        text = first_line(cause)
        for secret in self._database.secrets:
            text = text.replace(secret, "***")
        return WarehouseUnavailable(
            f"warehouse {self.name} cannot be used: {text}",
            remedy="check CACHE_PIPELINE_WAREHOUSE_URL, that the server can be reached, and that its user may create and write "
            "tables in that schema and in the one with _staging at its end",
        )


def open_pipeline(database: Database, table: WarehouseTable, folder: Path) -> dlt.Pipeline:
    """Return dlt's pipeline for a table of a database.

    Args:
        database: The database.
        table: The table.
        folder: Where dlt keeps its files.

    Raises:
        WarehouseRefused: dlt, or the driver of the database, is not installed.
    """
    # Its own settings are read from the environment, at the time of the import and later.
    os.environ.update(RUNTIME__DLTHUB_TELEMETRY="false", RUNTIME__LOG_LEVEL="CRITICAL", DLT_DATA_DIR=str(folder.parent))
    try:
        import dlt
        from dlt.common.destination import Destination
    except ImportError:
        raise WarehouseRefused(f"dlt is not installed: pip install 'dlt[{database.kind}]'") from None
    return dlt.pipeline(
        f"cache_pipeline_{table.name}",
        destination=Destination.from_reference(database.kind, **database.options),
        dataset_name=table.dataset,
        pipelines_dir=str(folder),
    )


def load_resource(table: WarehouseTable, partitions: Sequence[Interval], rows: RowsOfPartition) -> Any:
    """Return what dlt loads: the rows of some partitions, instead of all that the table has of them.

    The rows to delete are selected by time and not by a key, so that a partition that has no rows any more is emptied, and one of
    another length or time zone is replaced.
    """
    import dlt

    def batches() -> Iterator[pa.Table]:
        # The schema creates the table, and has the partitions deleted, even if no partition has rows.
        yield table.schema.empty_table()
        for partition in partitions:
            for batch in rows(partition):
                yield pa.Table.from_batches([batch])

    scope = " OR ".join(
        f"({_BUCKET} >= '{span.start.isoformat()}' AND {_BUCKET} < '{span.end.isoformat()}')"
        for span in IntervalSet(partitions)
    )
    return dlt.resource(
        batches,
        name=table.name,
        write_disposition={"disposition": "merge", "strategy": "delete-insert", "destination_scope": scope},
        # Columns may be added, but none may change its type: dlt would otherwise make a second column of another name.
        schema_contract={"tables": "evolve", "columns": "evolve", "data_type": "freeze"},
    )


def _find_cause(error: Exception) -> Exception:
    """Return the error behind dlt's own, which names dlt's steps and packages."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _contract_problem(cause: Exception) -> str:
    text = " ".join(str(cause).split())
    return text[text.find("Can't evolve") :] if "Can't evolve" in text else text
