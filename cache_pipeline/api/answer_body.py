"""The body of an answer as CSV, Arrow or Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.lazy_imports import pa, pq
from cache_pipeline.query.schema import Column
from cache_pipeline.storage.answer import describe_answer, read_rows
from cache_pipeline.storage.rendering import csv_heading, rows_as_csv

_ROWS_PER_PART = 10_000
#: What of an answer's head the formats of Arrow have as metadata.
_METADATA = (
    *("report", "interval", "granularity", "timeZone", "completeThrough", "provisionalFrom", "fetchedAt"),
    *("liveReport", "observedAt", "freshUntil", "liveProblem"),
)


def render_body(
    media_format: MediaFormat,
    body: bytes,
    columns: Sequence[Column],
    rows: pa.Table | None = None,
    *,
    has_safe_text: bool = False,
) -> Iterator[bytes]:
    """Yield an answer in a format other than JSON, a few thousand rows at a time.

    Args:
        media_format: The format.
        body: The answer as JSON.
        columns: The report's columns, for the types of Arrow and Parquet.
        rows: Its rows, if they are at hand; otherwise they are read from the JSON.
        has_safe_text: CSV: whether texts that a spreadsheet would run as formulas are disarmed.
    """
    table = _table(body, columns, rows)
    if media_format is MediaFormat.csv:
        yield csv_heading(table.schema.names, has_safe_text=has_safe_text)
        for start in range(0, table.num_rows, _ROWS_PER_PART):
            yield rows_as_csv(table.slice(start, _ROWS_PER_PART), has_safe_text=has_safe_text)
    elif media_format is MediaFormat.parquet:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        yield sink.getvalue().to_pybytes()
    else:
        yield from _arrow_stream(table)


class _Parts(io.RawIOBase):
    """A file that gives away what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _arrow_stream(table: pa.Table) -> Iterator[bytes]:
    sink = _Parts()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for batch in table.to_batches(max_chunksize=_ROWS_PER_PART):
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def _table(body: bytes, columns: Sequence[Column], rows: pa.Table | None) -> pa.Table:
    head = describe_answer(body)
    metadata = {name: str(head[name]) for name in _METADATA if head.get(name) is not None}
    return (read_rows(body, columns) if rows is None else rows).replace_schema_metadata(metadata)
