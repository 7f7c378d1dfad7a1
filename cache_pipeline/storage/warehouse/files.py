"""A warehouse of Parquet files: one file for each partition, in a folder for each report."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from cache_pipeline.errors import first_line
from cache_pipeline.lazy_imports import pq
from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.warehouse.base import RowsOfPartition, WarehouseTable, WarehouseUnavailable

_INSTANT = "%Y%m%dT%H%M%SZ"
_FILE = re.compile(r"(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)\.parquet")


class FileWarehouse:
    """Parquet files in a folder, S3, Azure or Google Cloud Storage.

    A file is replaced as a whole, so a reader sees each partition either as it was or as it is.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self._url, self._scratch = url.rstrip("/"), scratch

    @property
    def name(self) -> str:
        """The URL, which has no credentials: these come from the environment."""
        return self._url

    def check(self, table: WarehouseTable) -> None:
        """Check that the folder can be listed.

        Raises:
            WarehouseUnavailable: It cannot.
        """
        with self._translated_errors():
            self._list(self._open(table))

    def replace(self, table: WarehouseTable, partitions: Sequence[Interval], rows: RowsOfPartition) -> None:
        """Write the file of each partition, and then delete files of other partitions that overlap it.

        A partition without rows has a file without rows, which says that nothing happened.

        Raises:
            WarehouseUnavailable: The store refused; the partitions before that one are written.
        """
        with self._translated_errors():
            store = self._open(table)
            others = {name: interval for name, interval in self._list(store).items() if interval not in partitions}
            for partition in partitions:
                self._write(store, table, partition, rows)
                # Left by a declaration with partitions of another length or time zone.
                for name in [name for name, interval in others.items() if interval.intersection(partition)]:
                    obstore.delete(store, name)
                    del others[name]

    def _write(self, store: ObjectStore, table: WarehouseTable, partition: Interval, rows: RowsOfPartition) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        # Written to disk first, because a partition may not fit into memory.
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
                for batch in rows(partition):
                    writer.write_batch(batch)
            file.seek(0)
            obstore.put(store, _file_name(partition), file)

    def _list(self, store: ObjectStore) -> dict[str, Interval]:
        names = [item["path"] for page in obstore.list(store) for item in page]
        found = {name: _FILE.fullmatch(name) for name in names}
        return {name: Interval(_instant(match[1]), _instant(match[2])) for name, match in found.items() if match}

    def _open(self, table: WarehouseTable) -> ObjectStore:
        path = f"{table.dataset}/{table.name}"
        if self._url.startswith("file://"):
            folder = Path(unquote(urlsplit(self._url).path)) / path
            folder.mkdir(parents=True, exist_ok=True)
            return LocalStore(folder)
        return from_url(f"{self._url}/{path}")

    @contextmanager
    def _translated_errors(self) -> Generator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise WarehouseUnavailable(
                f"warehouse {self.name} cannot be used: {first_line(error)}",
                remedy="check that the folder or bucket exists, and that its files can be read, written, listed and deleted",
            ) from error


def _file_name(partition: Interval) -> str:
    return f"{partition.start.astimezone(UTC):{_INSTANT}}-{partition.end.astimezone(UTC):{_INSTANT}}.parquet"


def _instant(text: str) -> datetime:
    return datetime.strptime(text, _INSTANT).replace(tzinfo=UTC)
