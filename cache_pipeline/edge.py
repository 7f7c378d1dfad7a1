"""Read published data sets by URL: ``cache_pipeline.edge.read(url, dataset)`` returns an Arrow table.

Every file is checked against the sha256 in the manifest that lists it, so a reader sees one consistent version or an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import rows_within
from cache_pipeline.query.zones import time_zone
from cache_pipeline.storage.published.files import read_verified_rows
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, UnreadableManifest
from cache_pipeline.storage.published.object_store import describe_error, reading_store

__all__ = ["EdgeStoreError", "Manifest", "read", "read_manifest"]

_TIME_COLUMN = "interval_start"
_MAX_CONCURRENT_READS = 8
_MAX_ATTEMPTS = 5


class _FileMissing(EdgeStoreError):
    """A file listed in the manifest is missing; a newer manifest may list another."""


def read_manifest(url: str) -> Manifest:
    """Return what is published at a URL: data sets, their files, and until when they are complete.

    Args:
        url: The folder that holds ``manifest.json``: ``https://…``, ``file:///…``, ``s3://…``, ``gs://…`` or ``az://…``.

    Raises:
        EdgeStoreError: Nothing is published there, or it cannot be reached or read.
    """
    return _fetch_manifest(url, reading_store(url))


def read(
    url: str,
    dataset: str,
    columns: Sequence[str] | None = None,
    interval: str | tuple[datetime, datetime] | None = None,
) -> pa.Table:
    """Return the published rows of a data set in time order.

    Args:
        url: The folder that holds ``manifest.json``, as for :func:`read_manifest`.
        dataset: The data set's name in the manifest.
        columns: The columns to return; all by default.
        interval: Half-open: ``start/end`` as ISO 8601 (times without an offset are in the data set's zone) or two aware
            datetimes. Buckets that start inside it are returned; all by default.

    Returns:
        A table with ``interval_start`` and ``interval_end`` in UTC milliseconds, dimensions as strings, figures as float64.

    Raises:
        EdgeStoreError: There is no such data set or column, a file is missing or altered, or the store cannot be reached.
        InvalidInterval: The interval is open, reversed, empty, or not ISO 8601.
    """
    store = reading_store(url)
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        found = _find_data_set(url, _fetch_manifest(url, store), dataset, columns)
        try:
            found.require_disjoint_files(f"{url}: {dataset}")
            return _read_rows(url, store, found, columns, interval)
        except _FileMissing:
            # The data set was republished and the old file deleted after the manifest was read (or cached): read it again.
            if attempt == _MAX_ATTEMPTS:
                raise
    raise AssertionError


def _find_data_set(url: str, manifest: Manifest, name: str, columns: Iterable[str] | None) -> DataSet:
    found = manifest.datasets.get(name)
    if found is None:
        raise EdgeStoreError(f"{url} has no data set {name!r}: it has {', '.join(sorted(manifest.datasets)) or 'none'}")
    unknown = [column for column in columns or () if column not in found.columns]
    if unknown:
        raise EdgeStoreError(f"{name} has no column {', '.join(unknown)}: it has {', '.join(found.columns)}")
    return found


def _read_rows(
    url: str,
    store: ObjectStore,
    dataset: DataSet,
    columns: Sequence[str] | None,
    interval: str | tuple[datetime, datetime] | None,
) -> pa.Table:
    requested = _parse_interval(dataset, interval)
    files = [file for file in dataset.files if requested is None or file.covered_intervals() & IntervalSet([requested])]
    read_columns = None if columns is None else list(dict.fromkeys([_TIME_COLUMN, *columns]))
    if not files:
        raise EdgeStoreError(f"{url} has no published file of {requested}")

    def read_file(file: DataFile) -> pa.Table:
        return _read_file(url, store, file, read_columns)

    with ThreadPoolExecutor(min(_MAX_CONCURRENT_READS, len(files))) as pool:
        tables = list(pool.map(read_file, files))
    rows = pa.concat_tables(tables).sort_by(_TIME_COLUMN)
    rows = rows_within(rows, requested) if requested else rows
    return rows.select(list(columns)) if columns is not None else rows


def _parse_interval(dataset: DataSet, interval: str | tuple[datetime, datetime] | None) -> Interval | None:
    if interval is None:
        return None
    if isinstance(interval, str):
        return Interval.parse(interval, time_zone(dataset.time_zone))
    return Interval(*interval)


def _read_file(url: str, store: ObjectStore, file: DataFile, columns: Sequence[str] | None) -> pa.Table:
    body = _fetch(url, store, file.path)
    if body is None:
        raise _FileMissing(f"{url}/{file.path} is missing: tell the publisher to run cache-pipeline edge verify")
    return read_verified_rows(file, body, columns)


def _fetch_manifest(url: str, store: ObjectStore) -> Manifest:
    body = _fetch(url, store, "manifest.json")
    if body is None:
        raise EdgeStoreError(f"{url} has no manifest.json: give the URL of the folder that it is in")
    try:
        return Manifest.parse(body)
    except UnreadableManifest as error:
        raise EdgeStoreError(f"{url}/manifest.json does not parse: {error}: upgrade, or tell its publisher") from error


def _fetch(url: str, store: ObjectStore, path: str) -> bytes | None:
    try:
        return bytes(obstore.get(store, path).bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (BaseError, OSError) as error:
        raise describe_error(url, f"reading {path}", error, remedy=_remedy(error)) from error


def _remedy(error: Exception) -> str:
    """Return what a reader, who may have no access to the store, can do."""
    if "Content-Length" in str(error):
        return "let the server that answers there send Content-Length, for example by not compressing its answers"
    return "check the URL and its credentials, and that it can be reached from here"
