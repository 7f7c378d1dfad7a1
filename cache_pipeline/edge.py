"""Reading published data sets, for anybody with their URL: ``cache_pipeline.edge.read(url, dataset)`` gives Arrow.

Every file is held against the sha256 of the manifest that names it, so a reader sees one version or an error.
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
from cache_pipeline.storage.published.files import read_checked_rows
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, UnreadableManifest
from cache_pipeline.storage.published.object_store import describe_error, reading_store

__all__ = ["EdgeStoreError", "Manifest", "read", "read_manifest"]

_START = "interval_start"
_AT_ONCE = 8
_TRIES = 5


class _FileGone(EdgeStoreError):
    """A file that the manifest named is not there; a newer manifest may name another."""


def read_manifest(url: str) -> Manifest:
    """What is published at a URL: data sets, their files, and until when they are complete.

    Args:
        url: of the folder with ``manifest.json``: ``https://…``, ``file:///…``, ``s3://…``, ``gs://…`` or ``az://…``.

    Raises:
        EdgeStoreError: nothing is published there, or it cannot be reached or read.
    """
    return _manifest(url, reading_store(url))


def read(
    url: str,
    dataset: str,
    columns: Sequence[str] | None = None,
    interval: str | tuple[datetime, datetime] | None = None,
) -> pa.Table:
    """Published rows of a data set, in order of time.

    Args:
        url: of the folder with ``manifest.json``, as for :func:`read_manifest`.
        dataset: its name in the manifest.
        columns: those wanted; by default all.
        interval: half-open; ``start/end`` as ISO 8601 (ends without an offset are in the data set's zone) or two aware
            datetimes. Buckets that start inside it are returned; by default all.

    Returns:
        ``interval_start`` and ``interval_end`` in UTC milliseconds, dimensions as strings, figures as float64.

    Raises:
        EdgeStoreError: no such data set or column, a file is missing or altered, or the store cannot be reached.
        InvalidInterval: the interval is open, reversed, empty, or not ISO 8601.
    """
    store = reading_store(url)
    for attempt in range(1, _TRIES + 1):
        found = _data_set(url, _manifest(url, store), dataset, columns)
        try:
            return _rows(url, store, found, columns, interval)
        except _FileGone:
            # Published anew and collected since the manifest was read (or cached): the new manifest knows better.
            if attempt == _TRIES:
                raise
    raise AssertionError


def _data_set(url: str, manifest: Manifest, name: str, columns: Iterable[str] | None) -> DataSet:
    found = manifest.datasets.get(name)
    if found is None:
        raise EdgeStoreError(f"{url} has no data set {name!r}: it has {', '.join(sorted(manifest.datasets)) or 'none'}")
    unknown = [column for column in columns or () if column not in found.columns]
    if unknown:
        raise EdgeStoreError(f"{name} has no column {', '.join(unknown)}: it has {', '.join(found.columns)}")
    return found


def _rows(
    url: str,
    store: ObjectStore,
    dataset: DataSet,
    columns: Sequence[str] | None,
    interval: str | tuple[datetime, datetime] | None,
) -> pa.Table:
    wanted = _interval(dataset, interval)
    files = [file for file in dataset.files if wanted is None or file.covers() & IntervalSet([wanted])]
    needed = None if columns is None else list(dict.fromkeys([_START, *columns]))
    if not files:
        raise EdgeStoreError(f"{url} has no published file of {wanted}")

    def rows_of(file: DataFile) -> pa.Table:
        return _file(url, store, file, needed)

    with ThreadPoolExecutor(min(_AT_ONCE, len(files))) as pool:
        tables = list(pool.map(rows_of, files))
    rows = pa.concat_tables(tables).sort_by(_START)
    rows = rows_within(rows, wanted) if wanted else rows
    return rows.select(list(columns)) if columns is not None else rows


def _interval(dataset: DataSet, interval: str | tuple[datetime, datetime] | None) -> Interval | None:
    if interval is None:
        return None
    if isinstance(interval, str):
        return Interval.parse(interval, time_zone(dataset.time_zone))
    return Interval(*interval)


def _file(url: str, store: ObjectStore, file: DataFile, columns: Sequence[str] | None) -> pa.Table:
    body = _get(url, store, file.path)
    if body is None:
        raise _FileGone(f"{url}/{file.path} is missing: tell the publisher to run cache-pipeline edge verify")
    return read_checked_rows(file, body, columns)


def _manifest(url: str, store: ObjectStore) -> Manifest:
    body = _get(url, store, "manifest.json")
    if body is None:
        raise EdgeStoreError(f"{url} has no manifest.json: give the URL of the folder that it is in")
    try:
        return Manifest.parse(body)
    except UnreadableManifest as error:
        raise EdgeStoreError(f"{url}/manifest.json does not parse: {error}: upgrade, or tell its publisher") from error


def _get(url: str, store: ObjectStore, path: str) -> bytes | None:
    try:
        return bytes(obstore.get(store, path).bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (BaseError, OSError) as error:
        raise describe_error(url, f"reading {path}", error) from error
