"""Keeps fetched partitions as Parquet files on disk: verified, but not yet checked and stored.

The files outlive a killed run, so what was fetched is not fetched again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cache_pipeline.errors import DiskUnwritable, StagingReplaced
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows, RowSource

_META = b"cache_pipeline"
_BATCH_ROWS = 16 * 1024
#: Limits the page and the dictionary of each column in memory while a file is written; the library's default is a megabyte.
_PAGE_BYTES = 128 * 1024
_READ_BYTES = 64 * 1024


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


class Staging:
    """A folder with one Parquet file for each partition of each series."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, series: Series, key: str) -> Path:
        """Return the path of a partition's file, which may not exist."""
        # Some file systems do not allow colons in file names.
        return self._folder / series.report.name / series.id / f"{key.replace(':', '')}.parquet"

    def write(self, series: Series, partition: FetchedPartition) -> Path:
        """Keep a partition; a reader sees all of it or none.

        Raises:
            DiskUnwritable: naming the folder.
        """
        path = self.path(series, partition.key)
        meta = {
            "key": partition.key,
            "interval": str(partition.interval),
            "watermark": partition.watermark.isoformat(),
            "fetched_at": partition.fetched_at.isoformat(),
            "from_history": [str(part) for part in partition.from_history],
            "provisional_from_history": [str(part) for part in partition.provisional_from_history],
            "chunks": [_chunk_to_json(chunk) for chunk in partition.chunks],
        }
        schema = partition.rows.schema.with_metadata({_META: json.dumps(meta).encode()})
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(
                partial, schema, compression="zstd", data_page_size=_PAGE_BYTES, dictionary_pagesize_limit=_PAGE_BYTES
            ) as writer:
                for batch in partition.rows.batches():
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            reason = error.strerror or type(error).__name__
            raise DiskUnwritable(str(path.parent), reason, setting="CACHE_PIPELINE_DATA_DIR") from error
        return path

    def read(self, series: Series, key: str) -> FetchedPartition | None:
        """Return a staged partition, or None; its rows stay on disk until they are read."""
        path = self.path(series, key)
        if not path.exists():
            return None
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
        meta = json.loads((schema.metadata or {})[_META])
        plain = schema.remove_metadata()
        return FetchedPartition(
            key=meta["key"],
            interval=Interval.parse(meta["interval"]),
            rows=Rows.from_source(plain, _StagedRows(path, schema, count)),
            watermark=datetime.fromisoformat(meta["watermark"]),
            fetched_at=datetime.fromisoformat(meta["fetched_at"]),
            chunks=tuple(_chunk_from_json(chunk) for chunk in meta["chunks"]),
            from_history=IntervalSet(Interval.parse(part) for part in meta["from_history"]),
            provisional_from_history=IntervalSet(Interval.parse(part) for part in meta["provisional_from_history"]),
        )

    def has_any(self, series: Series) -> bool:
        """Return whether any partition of the series is staged."""
        return any(self.path(series, "any").parent.glob("*.parquet"))

    def stored_keys(self, series: Series, keys: Iterable[str]) -> list[str]:
        """Return those keys whose partitions are staged, in the order given, without opening a file."""
        names = {path.name for path in self.path(series, "any").parent.glob("*.parquet")}
        return [key for key in keys if self.path(series, key).name in names] if names else []

    def final_partitions(self, series: Series, keys: Iterable[str]) -> dict[str, FetchedPartition]:
        """Return the staged partitions that came entirely from the vendor and can no longer change."""
        staged = {key: partition for key in keys if (partition := self.read(series, key)) is not None}
        return {
            key: partition
            for key, partition in staged.items()
            if not partition.provisional(series.report) and not partition.from_history
        }


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
