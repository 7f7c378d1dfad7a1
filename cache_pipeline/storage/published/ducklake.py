"""A DuckLake catalogue of the published files, so that DuckDB can query them as tables, also as they were at an earlier snapshot.

The files are registered where they are; none is copied or changed. duckdb and its extension are optional, so only the functions
that need them import them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import EdgeTier, snapshot_of
from cache_pipeline.storage.published.maintenance import snapshots
from cache_pipeline.storage.published.registration import Registration, catalogue_error

if TYPE_CHECKING:
    from collections.abc import Generator

    from duckdb import DuckDBPyConnection

_AUTHOR = "cache_pipeline"
#: Another publisher may commit at the same time; then everything is compared once more.
_MAX_ATTEMPTS = 3
_SCHEMES = ("duckdb:///", "postgresql://", "postgres://")


class DuckLakeCatalog:
    """A catalogue in a DuckDB file or in PostgreSQL."""

    def __init__(self, catalog_url: str, store_url: str, namespace: str) -> None:
        """Name the catalogue; it is connected to when it is first used.

        Args:
            catalog_url: ``duckdb:///folder/file.ducklake`` or ``postgresql://…``.
            store_url: The store of the published files.
            namespace: The schema of the tables.

        Raises:
            EdgeStoreError: The URL is of another kind.
        """
        if not catalog_url.startswith(_SCHEMES):
            raise EdgeStoreError(
                "the URL of the DuckLake catalogue is of no supported kind: set CACHE_PIPELINE_DUCKLAKE_CATALOG_URL to "
                "duckdb:///folder/file.ducklake or postgresql://…"
            )
        is_file = catalog_url.startswith("duckdb://")
        self._url = catalog_url
        self._path = _local_path(catalog_url) if is_file else f"postgres:{catalog_url}"
        self._data_path = f"{_local_path(store_url.rstrip('/'))}/ducklake"
        self._namespace = namespace

    def register(self, edge: EdgeTier, files_url: str) -> list[Registration]:
        """Make the table of each published data set show exactly the files of the manifest, all in one snapshot.

        The snapshot's commit message names the manifest's. Snapshots of manifests that were deleted are expired, because files
        of theirs may be deleted too.

        Args:
            edge: The published data sets.
            files_url: The URL of the folder that the manifest is in.

        Returns:
            What the catalogue has now, by data set.

        Raises:
            EdgeStoreError: The catalogue or the store cannot be used.
        """
        try:
            import duckdb
        except ImportError:
            raise EdgeStoreError("duckdb is not installed: pip install 'cache-pipeline[ducklake]'") from None
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                # A DuckDB file has one writer, so publishers to a folder take turns.
                with edge.store.publisher_lock(), self._attached() as connection:
                    return self._register(connection, edge, files_url)
            except duckdb.Error as error:
                if attempt == _MAX_ATTEMPTS:
                    # It may quote the URL with its password.
                    raise self._describe(error) from None
        raise AssertionError

    def _describe(self, error: Exception) -> EdgeStoreError:
        return catalogue_error(
            "DuckLake",
            error,
            [self._url],
            remedy="check CACHE_PIPELINE_DUCKLAKE_CATALOG_URL, that no other process has the file attached, and that duckdb has its "
            "extension ducklake (INSTALL ducklake); the files are published, so run `cache-pipeline edge register` afterwards",
        )

    @contextmanager
    def _attached(self) -> Generator[DuckDBPyConnection]:
        import duckdb

        # Extensions may be installed as packages; nothing is downloaded.
        packaged = Path(duckdb.__file__).parents[1] / "duckdb_ext" / "extensions"
        config: dict[str, Any] = {"autoinstall_known_extensions": False}
        if packaged.is_dir():
            config["extension_directory"] = str(packaged)
        with closing(duckdb.connect(config=config)) as connection:
            connection.execute("LOAD ducklake")
            connection.execute(f"ATTACH {_text(f'ducklake:{self._path}')} AS lake (DATA_PATH {_text(self._data_path)})")
            yield connection

    def _register(self, connection: DuckDBPyConnection, edge: EdgeTier, files_url: str) -> list[Registration]:
        manifest = edge.manifest()
        snapshot, _ = snapshot_of(manifest)
        message = f"{self._namespace} {snapshot}"
        folder = _local_path(files_url)
        datasets = {
            name: {f"{folder}/{file.path}": file.rows for file in dataset.files}
            for name, dataset in manifest.datasets.items()
            if dataset.files
        }
        is_known = any(each == message for _, each in self._own_snapshots(connection)[-1:])
        connection.execute("BEGIN")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{_name(self._namespace)}")
        changes = {name: self._replace_files(connection, name, files) for name, files in datasets.items()}
        if datasets and (not is_known or any(map(any, changes.values()))):
            # A snapshot needs a change, and this one is also worth reading.
            for name in datasets:
                connection.execute(f"COMMENT ON TABLE {self._table(name)} IS {_text(f'snapshot {snapshot}')}")
            connection.execute(f"CALL lake.set_commit_message({_text(_AUTHOR)}, {_text(message)})")
            connection.execute("COMMIT")
        else:
            connection.execute("ROLLBACK")
        self._expire(connection, {each.id for each in snapshots(edge)}, folder)
        version = max((version for version, each in self._own_snapshots(connection) if each == message), default=0)
        return [
            Registration(f"{self._namespace}.{name}", f"AT (VERSION => {version})", *changes[name]) for name in datasets
        ]

    def _replace_files(self, connection: DuckDBPyConnection, name: str, files: Mapping[str, int]) -> tuple[int, int]:
        """Make a table consist of exactly these files, given with their rows; return how many were added and removed."""
        table, schema = self._table(name), _text(self._namespace)
        held: set[str] = set()
        if self._has_table(connection, name):
            listed = connection.execute(
                "SELECT data_file FROM ducklake_list_files('lake', ?, schema => ?)", [name, self._namespace]
            )
            held = {path for (path,) in listed.fetchall()}
        # A file without rows would never leave a table.
        paths = [path for path, rows in files.items() if rows]
        new, gone = [path for path in paths if path not in held], sorted(held.difference(paths))
        # The last file has the columns of the present declaration.
        columns = f"FROM read_parquet({_text(list(files)[-1])})"
        if not held or (new and _described(connection, f"FROM {table}") != _described(connection, columns)):
            # Older snapshots keep the table that they had.
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(f"CREATE TABLE {table} AS {columns} LIMIT 0")
            adding = paths
        else:
            for path in gone:
                # All rows of a file: DuckLake drops the file from the table, and does not read it.
                connection.execute(f"DELETE FROM {table} WHERE filename = {_text(path)}")  # noqa: S608 - quoted
            adding = new
        for path in adding:
            connection.execute(
                f"CALL ducklake_add_data_files('lake', {_text(name)}, {_text(path)}, schema => {schema})"
            )
        return len(new), len(gone)

    def _expire(self, connection: DuckDBPyConnection, available: Collection[str], folder: str) -> None:
        """Expire the snapshots of manifests that no longer exist, and keep DuckLake from deleting published files."""
        expired = [
            version for version, message in self._own_snapshots(connection)[:-1] if message.split()[-1] not in available
        ]
        if expired:
            connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => {expired})")
        # A rollback may name these files again; only `edge gc` deletes them.
        connection.execute(
            "DELETE FROM __ducklake_metadata_lake.ducklake_files_scheduled_for_deletion WHERE starts_with(path, ?)",
            [folder],
        )

    def _own_snapshots(self, connection: DuckDBPyConnection) -> list[tuple[int, str]]:
        """Return the version and message of each snapshot that was made of a manifest of this tenant, oldest first."""
        found = connection.execute(
            "SELECT snapshot_id, commit_message FROM lake.snapshots() WHERE author = ? AND starts_with(commit_message, ?)"
            " ORDER BY snapshot_id",
            [_AUTHOR, f"{self._namespace} "],
        )
        return found.fetchall()

    def _has_table(self, connection: DuckDBPyConnection, name: str) -> bool:
        found = connection.execute(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name = ? AND table_name = ?",
            [self._namespace, name],
        )
        return found.fetchone() is not None

    def _table(self, name: str) -> str:
        return f"lake.{_name(self._namespace)}.{_name(name)}"


def _described(connection: DuckDBPyConnection, source: str) -> Mapping[str, str]:
    """Return the type of each column; of files, only their metadata is read."""
    return {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {source}").fetchall()}


def _local_path(url: str) -> str:
    """Return the path of a file's URL as DuckDB writes it; other URLs stay as they are."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme in ("file", "duckdb") else url


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
