"""Takes rows in as they come: few stay in memory, many go to a temporary file without a name.

The file is gone when nobody holds its rows any more, also after a kill -9.
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

import pyarrow as pa
from pyarrow import ipc

from cache_pipeline.errors import DiskUnwritable, SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.rows.digest import RowTally, merge_tallies, tally_by_bucket
from cache_pipeline.rows.rows import Rows, RowSource

#: Bytes that one answer may keep in memory; some tens of answers are in flight at a time.
_HELD_BYTES = 4 * 2**20
#: Rows of one block: what is written, and read back, at a time.
_BLOCK_ROWS = 16 * 1024
_OPTIONS = ipc.IpcWriteOptions(compression="lz4")


def unwritable(error: OSError) -> DiskUnwritable:
    """Return the error of a temporary folder that cannot be written."""
    return DiskUnwritable(tempfile.gettempdir(), error.strerror or type(error).__name__, setting="TMPDIR")


class _File:
    """A temporary file that has no name, only a descriptor, which is closed with the object."""

    def __init__(self) -> None:
        self._descriptor, path = tempfile.mkstemp(prefix="cache-pipeline-")
        Path(path).unlink()
        self._end = 0
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, body: pa.Buffer) -> tuple[int, int]:
        """Write at the end; gives offset and length."""
        view, offset = memoryview(body), self._end
        while self._end < offset + len(view):
            self._end += os.pwrite(self._descriptor, view[self._end - offset :], self._end)
        return offset, len(view)

    def read(self, offset: int, length: int) -> bytes:
        """Read back; needs no position, so that threads may read side by side."""
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
class _HeldBlock:
    rows: pa.Table
    tallies: Mapping[datetime, RowTally]

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.rows.to_batches()


@dataclass(frozen=True)
class _FiledBlock:
    file: _File
    offset: int
    length: int
    tallies: Mapping[datetime, RowTally]

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from ipc.open_stream(self.file.read(self.offset, self.length))


@dataclass(frozen=True)
class _Blocks(RowSource):
    """Blocks, each of which knows the buckets it has."""

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
    """Collects rows of one schema."""

    def __init__(self, schema: pa.Schema, memory_limit_bytes: int = _HELD_BYTES) -> None:
        self._schema = schema
        self._held_bytes = memory_limit_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._blocks: list[_Block] = []
        self._file: _File | None = None

    def append(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Take in some rows.

        Raises:
            SchemaMismatch: they are of another schema.
            DiskUnwritable: naming the folder.
        """
        if not rows.schema.equals(self._schema):
            raise SchemaMismatch(f"columns are {_told(rows.schema)} where {_told(self._schema)} are declared")
        self._waiting.append(rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows]))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= _BLOCK_ROWS:
            self._take_waiting()

    def rows(self) -> Rows:
        """Everything taken in so far."""
        self._take_waiting()
        return Rows.from_source(self._schema, _Blocks(tuple(self._blocks)))

    def _take_waiting(self) -> None:
        waiting = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        for start in range(0, waiting.num_rows, _BLOCK_ROWS):
            block = waiting.slice(start, _BLOCK_ROWS).combine_chunks()
            self._blocks.append(_HeldBlock(block, tally_by_bucket(block)))
        self._waiting, self._waiting_rows = [], 0
        held = sum(block.rows.nbytes for block in self._blocks if isinstance(block, _HeldBlock))
        if self._file is not None or held > self._held_bytes:
            self._spill()

    def _spill(self) -> None:
        try:
            self._file = self._file or _File()
            for number, block in enumerate(self._blocks):
                if isinstance(block, _HeldBlock):
                    self._blocks[number] = _FiledBlock(self._file, *self._file.append(_packed(block)), block.tallies)
        except OSError as error:
            raise unwritable(error) from error


def _packed(block: _HeldBlock) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, block.rows.schema, options=_OPTIONS) as writer:
        writer.write_table(block.rows)
    return sink.getvalue()


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema)
