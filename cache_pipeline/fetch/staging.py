"""Keeps fetched partitions as Parquet files on disk: verified, but not yet checked and stored.

The files outlive a killed run, so what was fetched is not fetched again. Each carries its series and its interval, in its
path and within, and is read only for these: what was staged under a declaration of another meaning counts as absent.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cache_pipeline.errors import DiskUnwritable, SeriesMismatch, StagingReplaced
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.lazy_imports import pa, pq
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows, RowSource
from cache_pipeline.storage.coverage import Coverage, FetchTime

logger = logging.getLogger(__name__)

_META = b"cache_pipeline"
_BATCH_ROWS = 16 * 1024
#: Limits the page and the dictionary of each column in memory while a file is written; the library's default is a megabyte.
_PAGE_BYTES = 128 * 1024
_READ_BYTES = 64 * 1024
_PARTIAL = ".part"
_INSTANT_FORMAT = "%Y%m%dT%H%MZ"
_INTERVAL_IN_NAME = re.compile(r"_(\d{8}T\d{4}Z)_(\d{8}T\d{4}Z)\.parquet$")
#: Its time is that of the last cleaning.
_MARKER = ".cleaned"
_CLEANING_INTERVAL = timedelta(days=1)


@dataclass(frozen=True)
class _StagedRows(RowSource):
    """The rows of one file, which is open only while they are read.

    Attributes:
        path: The file's path.
        schema: Its schema, with the metadata that distinguishes this version of the partition from another.
        footer_rows: The number of rows according to its footer.
    """

    path: Path
    schema: pa.Schema
    footer_rows: int

    @property
    def num_rows(self) -> int:
        return self.footer_rows

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        try:
            # With pre_buffer the library reads the whole file into memory and releases it only at the end.
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
                if not file.schema_arrow.equals(self.schema, check_metadata=True):
                    raise StagingReplaced(f"{self.path} was replaced while it was being read: run the step again")
                for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                    yield batch.replace_schema_metadata(None)
        except FileNotFoundError as error:
            raise StagingReplaced(
                f"{self.path} was removed while it was being read: materialise staged again"
            ) from error
        except (OSError, pa.ArrowException) as error:
            # Otherwise every later run would find the file, and fail at the same place.
            self.path.unlink(missing_ok=True)
            raise StagingReplaced(
                f"{self.path} could not be read ({error}) and was deleted: materialise staged again"
            ) from error


class Staging:
    """A folder with one Parquet file for each partition of each series."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, series: Series, key: str, interval: Interval) -> Path:
        """Return the path of a partition's file, which may not exist.

        A key alone does not tell partitions apart: ``2026-01-05`` is a day or a week, in one time zone or another.
        """
        # Some file systems do not allow colons in file names.
        name = f"{key}_{interval.start:{_INSTANT_FORMAT}}_{interval.end:{_INSTANT_FORMAT}}".replace(":", "")
        return self._folder_of(series) / f"{name}.parquet"

    def _folder_of(self, series: Series) -> Path:
        return self._folder / series.report.name / series.query_id

    def write(self, series: Series, partition: FetchedPartition) -> Path:
        """Keep a partition; a reader sees all of it or none, also after a power failure.

        Raises:
            DiskUnwritable: naming the folder.
            SeriesMismatch: The partition was fetched for another series.
        """
        if partition.query_id not in (None, series.query_id):
            raise SeriesMismatch(series.report.name, partition.key)
        path = self.path(series, partition.key, partition.interval)
        schema = partition.rows.schema.with_metadata({_META: json.dumps(_to_json(series, partition)).encode()})
        partial = path.with_suffix(f".{os.getpid()}{_PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(
                partial, schema, compression="zstd", data_page_size=_PAGE_BYTES, dictionary_pagesize_limit=_PAGE_BYTES
            ) as writer:
                for batch in partition.rows.batches():
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            reason = error.strerror or type(error).__name__
            raise DiskUnwritable(str(path.parent), reason, setting="CACHE_PIPELINE_DATA_DIR") from error
        return path

    def read(self, series: Series, key: str, interval: Interval) -> FetchedPartition | None:
        """Return a staged partition, or None if none of this series and interval is staged.

        Its rows stay on disk until they are read. A file that cannot be read counts as absent; the next fetch replaces it.
        """
        path = self.path(series, key, interval)
        try:
            with pq.ParquetFile(path) as file:
                schema, count = file.schema_arrow, file.metadata.num_rows
            partition = _from_json(json.loads((schema.metadata or {})[_META]))
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read and counts as absent: %s", path, error)
            return None
        if (partition.query_id, partition.key, partition.interval) != (series.query_id, key, interval):
            logger.warning("%s holds another partition than its name says and counts as absent", path)
            return None
        return replace(partition, rows=Rows.from_source(schema.remove_metadata(), _StagedRows(path, schema, count)))

    def version(self, series: Series) -> str | None:
        """Return a text that changes when a partition of the series is staged or deleted; None if none ever was."""
        try:
            return str(self._folder_of(series).stat().st_mtime_ns)
        except OSError:
            return None

    def stored_intervals(self, series: Series) -> IntervalSet:
        """Return the intervals of the staged partitions of a series, without opening a file."""
        names = (_INTERVAL_IN_NAME.search(path.name) for path in self._folder_of(series).glob("*.parquet"))
        return IntervalSet(Interval(*map(datetime.fromisoformat, name.groups())) for name in names if name)

    def stored_keys(self, series: Series, intervals: Mapping[str, Interval]) -> list[str]:
        """Return those keys whose partitions are staged, in the order given, without opening a file."""
        names = {path.name for path in self._folder_of(series).glob("*.parquet")}
        if not names:
            return []
        return [key for key, interval in intervals.items() if self.path(series, key, interval).name in names]

    def final_partitions(
        self, series: Series, intervals: Mapping[str, Interval], stored: Coverage
    ) -> dict[str, FetchedPartition]:
        """Return the staged partitions that came entirely from the vendor and can no longer change.

        Args:
            series: The series.
            intervals: The interval of each partition key.
            stored: What history holds. Where it has doubted these figures since, the partition must be fetched again.
        """
        staged = {
            key: partition
            for key, interval in intervals.items()
            if (partition := self.read(series, key, interval)) is not None
        }
        return {
            key: partition
            for key, partition in staged.items()
            if not partition.provisional(series.report)
            and not partition.from_history
            and not stored.provisional & stored.fetched_since(partition.fetched_at) & IntervalSet([partition.interval])
        }

    def delete_old(self, retention: timedelta, now: datetime) -> int:
        """Delete files that were written longer ago than the retention, of every series, also of removed reports.

        It looks at most once a day, so that every run may call it.

        Returns:
            The number of files deleted.
        """
        marker = self._folder / _MARKER
        if _modified_at(marker) > (now - _CLEANING_INTERVAL).timestamp():
            return 0
        deleted = 0
        with suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            os.utime(marker, (now.timestamp(), now.timestamp()))
            for pattern in ("*/*/*.parquet", f"*/*/*{_PARTIAL}"):
                for path in self._folder.glob(pattern):
                    if _modified_at(path) < (now - retention).timestamp():
                        path.unlink(missing_ok=True)
                        deleted += 1
        return deleted


def _modified_at(path: Path) -> float:
    """Return when a file was last written, in seconds since 1970; 0 if that cannot be known."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _sync(path: Path) -> None:
    """Have the file system write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(series: Series, partition: FetchedPartition) -> dict[str, Any]:
    return {
        "query": series.query_id,
        "key": partition.key,
        "interval": str(partition.interval),
        "watermark": partition.watermark.isoformat(),
        "fetched_at": partition.fetched_at.isoformat(),
        "from_history": _texts(partition.from_history),
        "provisional_from_history": _texts(partition.provisional_from_history),
        "second_looks": {str(reason): _texts(parts) for reason, parts in partition.second_looks.items()},
        "fetch_times": [[_texts(each.intervals), each.at.isoformat()] for each in partition.fetch_times],
        "chunks": [_chunk_to_json(chunk) for chunk in partition.chunks],
    }


def _from_json(meta: dict[str, Any]) -> FetchedPartition:
    """Return a partition without its rows."""
    return FetchedPartition(
        key=meta["key"],
        interval=Interval.parse(meta["interval"]),
        rows=Rows.from_table(pa.table({})),
        watermark=datetime.fromisoformat(meta["watermark"]),
        fetched_at=datetime.fromisoformat(meta["fetched_at"]),
        chunks=tuple(_chunk_from_json(chunk) for chunk in meta["chunks"]),
        from_history=_intervals(meta["from_history"]),
        provisional_from_history=_intervals(meta["provisional_from_history"]),
        second_looks={SecondLook(reason): _intervals(parts) for reason, parts in meta["second_looks"].items()},
        fetch_times=tuple(
            FetchTime(_intervals(parts), datetime.fromisoformat(at)) for parts, at in meta["fetch_times"]
        ),
        query_id=meta["query"],
    )


def _texts(intervals: IntervalSet) -> list[str]:
    return [str(part) for part in intervals]


def _intervals(texts: list[str]) -> IntervalSet:
    return IntervalSet(Interval.parse(part) for part in texts)


def _chunk_to_json(chunk: ChunkResult) -> dict[str, object]:
    # `sent` is in history, and only there needed.
    known = {name: value for name, value in asdict(chunk).items() if name != "sent"}
    return {**known, "interval": str(chunk.interval), "watermark": chunk.watermark.isoformat()}


def _chunk_from_json(data: dict[str, object]) -> ChunkResult:
    known = {field.name: data[field.name] for field in fields(ChunkResult) if field.name in data}
    return ChunkResult(
        **{
            **known,
            "interval": Interval.parse(str(known["interval"])),
            "watermark": datetime.fromisoformat(str(known["watermark"])),
            "source": ExpectationSource(str(known["source"])),
            "verdict": Verdict(str(known["verdict"])),
        }  # pyright: ignore[reportArgumentType]
    )
