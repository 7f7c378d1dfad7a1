"""An Iceberg catalogue of the published files, so that tools that know nothing of the manifest can query them.

The files are registered where they are; none is copied or changed. pyiceberg is an optional extra and takes seconds to import,
so only the functions that need it import it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.lazy_imports import pa, pq
from cache_pipeline.storage.published.edge_tier import EdgeTier, snapshot_of
from cache_pipeline.storage.published.maintenance import snapshots
from cache_pipeline.storage.published.manifest import DataSet
from cache_pipeline.storage.published.registration import Registration, catalogue_error

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

#: The property of an Iceberg snapshot that names the manifest's snapshot with the same files.
SNAPSHOT_PROPERTY = "cache_pipeline.snapshot"
_NAME_MAPPING = "schema.name-mapping.default"
#: Another publisher may commit at the same time; then everything is compared once more.
_MAX_ATTEMPTS = 5


class IcebergCatalog:
    """A catalogue in a database, whose metadata files lie beside the published ones, outside the folder that a CDN serves."""

    def __init__(self, catalog_url: str, store_url: str, namespace: str) -> None:
        """Name the catalogue; it is connected to when it is first used.

        Args:
            catalog_url: ``sqlite:////folder/file.db`` or ``postgresql://…``.
            store_url: The store of the published files.
            namespace: The namespace of the tables.
        """
        self._url, self._namespace = catalog_url, namespace
        # dagster-postgres has psycopg2, but only psycopg 3 is a dependency of this package.
        self._driver_url = catalog_url.replace("postgresql://", "postgresql+psycopg://", 1)
        self._store_url = store_url.rstrip("/")

    def register(self, edge: EdgeTier, files_url: str) -> list[Registration]:
        """Make the table of each published data set show exactly the files of the manifest, each change as one snapshot.

        Args:
            edge: The published data sets.
            files_url: The URL of the folder that the manifest is in.

        Returns:
            What the catalogue has now, by data set.

        Raises:
            EdgeStoreError: The catalogue or the store cannot be used, or a table cannot hold the columns.
        """
        try:
            from pyiceberg.exceptions import CommitFailedException
            from sqlalchemy.exc import SQLAlchemyError
        except ImportError:
            raise EdgeStoreError("pyiceberg is not installed: pip install 'cache-pipeline[iceberg]'") from None
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return self._register(edge, files_url)
            except CommitFailedException as error:
                if attempt == _MAX_ATTEMPTS:
                    raise self._describe(error) from None
            except (SQLAlchemyError, OSError, ValueError) as error:
                # Some of them quote the URL with its password.
                raise self._describe(error) from None
        raise AssertionError

    def _describe(self, error: Exception) -> EdgeStoreError:
        return catalogue_error(
            "Iceberg",
            error,
            [self._driver_url, self._url],
            remedy="check CACHE_PIPELINE_ICEBERG_CATALOG_URL and that its user may create tables; the files are published, so run "
            "`cache-pipeline edge register` afterwards",
        )

    def _register(self, edge: EdgeTier, files_url: str) -> list[Registration]:
        manifest = edge.manifest()
        snapshot, _ = snapshot_of(manifest)
        available = {each.id for each in snapshots(edge)}
        catalog = self._open()
        try:
            catalog.create_namespace_if_not_exists(self._namespace)
            return [
                self._register_dataset(catalog, files_url, name, dataset, snapshot, available)
                for name, dataset in manifest.datasets.items()
                if dataset.files
            ]
        finally:
            catalog.close()

    def _open(self) -> Catalog:
        from pyiceberg.catalog.sql import SqlCatalog

        return SqlCatalog("cache_pipeline", uri=self._driver_url, warehouse=f"{self._store_url}/iceberg")

    def _register_dataset(
        self,
        catalog: Catalog,
        files_url: str,
        name: str,
        dataset: DataSet,
        snapshot: str,
        available: Collection[str],
    ) -> Registration:
        paths = [f"{files_url}/{file.path}" for file in dataset.files]
        identifier = (self._namespace, name)
        if catalog.table_exists(identifier):
            table = catalog.load_table(identifier)
        else:
            table = catalog.create_table_if_not_exists(identifier, _read_fields(paths[-1]))
        added, removed = _replace_files(table, paths, snapshot)
        _tag(table, snapshot, available)
        return Registration(f"{self._namespace}.{name}", table.metadata_location, added, removed)


def _read_fields(path: str) -> pa.Schema:
    """Read the columns of a file from its footer, without their numbers of Parquet, which are not Iceberg's."""
    from pyiceberg.io import load_file_io

    with load_file_io(location=path).new_input(path).open() as file:
        schema = pq.read_schema(file)  # pyright: ignore[reportArgumentType] - a file object, which lacks methods that are not used
    return pa.schema([pa.field(field.name, field.type) for field in schema])


def _replace_files(table: Table, paths: Sequence[str], snapshot: str) -> tuple[int, int]:
    """Make a table consist of exactly these files, in one commit; return how many were added and removed."""
    from pyiceberg.io.pyarrow import parquet_files_to_data_files

    held: Mapping[str, Any] = {task.file.file_path: task.file for task in table.scan().plan_files()}
    new, gone = [path for path in paths if path not in held], [held[path] for path in held if path not in paths]
    if not new and not gone:
        return 0, 0
    # The last file has the columns of the present declaration.
    fields = _read_fields(paths[-1])
    with table.transaction() as transaction:
        if set(fields.names) - set(table.schema().column_names):
            with transaction.update_schema() as update:
                update.union_by_name(fields)
        # The files have no ids of columns, so they are found by name.
        mapping = transaction.table_metadata.schema().name_mapping
        transaction.set_properties({_NAME_MAPPING: mapping.model_dump_json()})
        metadata = transaction.table_metadata
        files = list(parquet_files_to_data_files(table.io, metadata, iter(new)))
        with transaction.update_snapshot({SNAPSHOT_PROPERTY: snapshot}).overwrite() as overwrite:
            for file in gone:
                overwrite.delete_data_file(file)
            for file in files:
                overwrite.append_data_file(file)
    return len(new), len(gone)


def _tag(table: Table, snapshot: str, available: Collection[str]) -> None:
    """Name the table's present snapshot after the manifest's, and expire the snapshots whose manifests were all deleted.

    `edge gc` deletes the files of those.
    """
    current = table.current_snapshot()
    names = [name for name, reference in table.refs().items() if reference.snapshot_ref_type == "tag"]
    expired = [name for name in names if name not in available and name != snapshot]
    if current is not None and (snapshot not in names or expired):
        with table.manage_snapshots() as changes:
            for name in expired:
                changes.remove_tag(name)
            if snapshot not in names:
                changes.create_tag(current.snapshot_id, snapshot)
    named = {reference.snapshot_id for reference in table.refs().values()}
    unnamed = [each.snapshot_id for each in table.snapshots() if each.snapshot_id not in named]
    if unnamed:
        table.maintenance.expire_snapshots().by_ids(unnamed).commit()
