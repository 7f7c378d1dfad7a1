"""Spool: collects rows as they arrive. Few rows stay in memory, many are written to an unnamed temporary file.

The operating system removes the file once nothing refers to its rows any more, even after a kill -9.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cache_pipeline.errors import DiskUnwritable, SchemaMismatch
from cache_pipeline.lazy_imports import ipc, pa
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.tallies import RowTally, merge_tallies
from cache_pipeline.rows.digest import tally_by_bucket
from cache_pipeline.rows.rows import Rows, RowSource

#: Bytes of one answer that may stay in memory. Some tens of answers are in flight at a time.
_DEFAULT_MEMORY_LIMIT_BYTES = 4 * 2**20
#: Rows per block, the unit of writing and reading.
_BLOCK_ROWS = 16 * 1024


def temporary_folder_error(error: OSError) -> DiskUnwritable:
    """Return the error of a temporary folder that cannot be written."""
    return DiskUnwritable(tempfile.gettempdir(), error.strerror or type(error).__name__, setting="TMPDIR")


class _File:
    """A temporary file without a name. Its descriptor is closed when the object is freed."""

    def __init__(self) -> None:
        self._descriptor, path = tempfile.mkstemp(prefix="cache-pipeline-")
        Path(path).unlink()
        self._end = 0
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, body: pa.Buffer) -> tuple[int, int]:
        """Append bytes and return their offset and length."""
        view, offset = memoryview(body), self._end
        while self._end < offset + len(view):
            self._end += os.pwrite(self._descriptor, view[self._end - offset :], self._end)
        return offset, len(view)

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes at an offset. It uses no file position, so threads may read concurrently."""
        parts: list[bytes] = []
        while length:
            parts.append(os.pread(self._descriptor, length, offset))
            offset, length = offset + len(parts[-1]), length - len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Block(Protocol):
    @property
    def tallies(self) -> Mapping[datetime, RowTally]: ...

    def batches(self) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True)
class _MemoryBlock:
    rows: pa.Table
    tallies: Mapping[datetime, RowTally]

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.rows.to_batches()


@dataclass(frozen=True)
class _FileBlock:
    file: _File
    offset: int
    length: int
    tallies: Mapping[datetime, RowTally]

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from ipc.open_stream(self.file.read(self.offset, self.length))


@dataclass(frozen=True)
class _Blocks(RowSource):
    """Blocks that know which buckets they contain."""

    blocks: tuple[_Block, ...]

    @property
    def num_rows(self) -> int:
        return sum(tally.rows for tally in self.tallies.values())

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        return merge_tallies(block.tallies for block in self.blocks)

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        for block in self.blocks:
            if within is None or any(within.contains_instant(start) for start in block.tallies):
                yield from block.batches()


class Spool:
    """A collector of rows of one schema."""

    def __init__(self, schema: pa.Schema, memory_limit_bytes: int = _DEFAULT_MEMORY_LIMIT_BYTES) -> None:
        self._schema = schema
        self._memory_limit_bytes = memory_limit_bytes
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._blocks: list[_Block] = []
        self._file: _File | None = None

    def append(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append some rows.

        Raises:
            SchemaMismatch: The rows have another schema.
            DiskUnwritable: The temporary folder cannot be written; the error names it.
        """
        if not rows.schema.equals(self._schema):
            raise SchemaMismatch(f"columns are {_describe(rows.schema)} where {_describe(self._schema)} are declared")
        self._pending.append(rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows]))
        self._pending_rows += rows.num_rows
        if self._pending_rows >= _BLOCK_ROWS:
            self._flush()

    def rows(self) -> Rows:
        """Return all rows appended so far."""
        self._flush()
        return Rows.from_source(self._schema, _Blocks(tuple(self._blocks)))

    def _flush(self) -> None:
        pending = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        for start in range(0, pending.num_rows, _BLOCK_ROWS):
            block = pending.slice(start, _BLOCK_ROWS).combine_chunks()
            self._blocks.append(_MemoryBlock(block, tally_by_bucket(block)))
        self._pending, self._pending_rows = [], 0
        memory_bytes = sum(block.rows.nbytes for block in self._blocks if isinstance(block, _MemoryBlock))
        if self._file is not None or memory_bytes > self._memory_limit_bytes:
            self._spill()

    def _spill(self) -> None:
        try:
            self._file = self._file or _File()
            for index, block in enumerate(self._blocks):
                if isinstance(block, _MemoryBlock):
                    self._blocks[index] = _FileBlock(self._file, *self._file.append(_serialize(block)), block.tallies)
        except OSError as error:
            raise temporary_folder_error(error) from error


def _serialize(block: _MemoryBlock) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, block.rows.schema, options=ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(block.rows)
    return sink.getvalue()


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema)
