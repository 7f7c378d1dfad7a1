"""Names for ids: merging what a vendor lists into what is known, and joining names to rows.

A name is valid from when it was first seen until another was seen, or until its entry was listed no more. Nothing is forgotten:
figures of a deleted queue still have its last name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cache_pipeline.lazy_imports import pa, pc
from cache_pipeline.query.schema import Column, ColumnKind


class NameTime(StrEnum):
    """Which name of an id that was renamed: its latest one, or the one at the time of the figures."""

    current = "current"
    then = "then"


@dataclass(frozen=True)
class ListedName:
    """A name as the vendor lists it.

    Attributes:
        name: The name.
        is_deleted: Whether the vendor says that its entry was deleted.
    """

    name: str
    is_deleted: bool = False


class DeletedNames(StrEnum):
    """Whether deleted entries are listed."""

    excluded = "excluded"
    included = "included"
    alone = "alone"


@dataclass(frozen=True)
class NameMatch:
    """A part of a name, and where in the name it may be.

    Attributes:
        text: The part.
        may_begin_earlier: Whether other characters may be before it.
        may_end_later: Whether other characters may be after it.
    """

    text: str
    may_begin_earlier: bool = False
    may_end_later: bool = False


@dataclass(frozen=True)
class NameSelection:
    """Some entries of a listing, in order of their names.

    Attributes:
        start: The entries that are skipped.
        size: The most entries that are returned.
        ids: The ids of which entries are returned; None for all.
        name: The name that entries have, whatever its case; None for all.
        deleted: Whether deleted entries are among them, with their last names.
        is_descending: Whether the order is reversed.
    """

    start: int
    size: int
    ids: tuple[str, ...] | None = None
    name: NameMatch | None = None
    deleted: DeletedNames = DeletedNames.excluded
    is_descending: bool = False


@dataclass(frozen=True)
class NamedEntry:
    """An entry of a listing."""

    id: str
    name: str
    is_deleted: bool


@dataclass(frozen=True)
class NamePage:
    """Some entries of a listing, and how many there are on all pages."""

    entries: Sequence[NamedEntry]
    total: int


@dataclass(frozen=True)
class NameVersion:
    """A name of an id for some time.

    Attributes:
        name: The name.
        valid_from: When it was first seen.
        valid_to: When another name was seen, or the entry was no longer listed; None if it is still valid.
    """

    name: str
    valid_from: datetime
    valid_to: datetime | None = None


#: The versions of each id's name, oldest first; at least one.
Versions = Mapping[str, Sequence[NameVersion]]


@dataclass(frozen=True)
class NameChanges:
    """What a listing changes.

    Attributes:
        opened: The ids that have a new name from now on.
        closed: The ids whose name is no longer valid: renamed, deleted, or no longer listed.
        deleted_before: Names of ids that were unknown and are already deleted.
    """

    opened: Mapping[str, str]
    closed: frozenset[str]
    deleted_before: Mapping[str, str]

    def __bool__(self) -> bool:
        """Return whether anything changes."""
        return bool(self.opened or self.closed or self.deleted_before)


def merge_names(latest: Mapping[str, NameVersion], listed: Mapping[str, ListedName]) -> NameChanges:
    """Compare the latest version of each known name with a complete listing."""
    valid = {id_: version.name for id_, version in latest.items() if version.valid_to is None}
    present = {id_: entry.name for id_, entry in listed.items() if not entry.is_deleted}
    return NameChanges(
        opened={id_: name for id_, name in present.items() if valid.get(id_) != name},
        closed=frozenset(id_ for id_, name in valid.items() if present.get(id_) != name),
        deleted_before={id_: entry.name for id_, entry in listed.items() if entry.is_deleted and id_ not in latest},
    )


def name_column(column: str) -> str:
    """Return the column with the names of a column's ids: ``queue_id`` → ``queue_name``."""
    return f"{column.removesuffix('_id')}_name"


def with_name_columns(columns: Sequence[Column], lookups: Mapping[str, str]) -> tuple[Column, ...]:
    """Return columns with those of the names, each after its ids, as `add_names` adds them.

    Args:
        columns: The columns of an answer.
        lookups: The lookup that has the names of a column's ids, by column.
    """
    taken = {column.name for column in columns}
    found: list[Column] = []
    for column in columns:
        found.append(column)
        if column.name in lookups and (name := name_column(column.name)) not in taken:
            found.append(Column(name, ColumnKind.dimension, nullable=True, description=f"name of {column.name}"))
    return tuple(found)


def add_names(rows: pa.Table, names: Mapping[str, Versions], when: NameTime) -> pa.Table:
    """Add a column with names after each column of ids. An id without a name is its own name.

    Args:
        rows: The rows of an answer.
        names: The names of a column's ids, by column.
        when: Which name of an id that was renamed.
    """
    for column, versions in names.items():
        name = name_column(column)
        if column in rows.schema.names and name not in rows.schema.names:
            found = _names_of(rows, column, versions, when)
            rows = rows.add_column(rows.schema.get_field_index(column) + 1, pa.field(name, pa.string()), found)
    return rows


def distinct_ids(rows: pa.Table, column: str) -> list[str]:
    """Return the ids in a column, without null."""
    return [value for value in pc.unique(rows.column(column)).to_pylist() if value is not None]


def _names_of(rows: pa.Table, column: str, versions: Versions, when: NameTime) -> pa.Array[Any]:
    encoded = rows.column(column).combine_chunks().dictionary_encode()
    ids = [str(id_) for id_ in encoded.dictionary.to_pylist()]
    names = pa.array([versions[id_][-1].name if id_ in versions else id_ for id_ in ids], pa.string())
    found = names.take(encoded.indices)
    if when is NameTime.current:
        return found
    # Rows without an interval are of the present, or of the moment in which they were observed.
    times = "interval_start" if "interval_start" in rows.schema.names else "observed_at"
    starts = rows.column(times).combine_chunks()
    for code, id_ in enumerate(ids):
        # From the latest to the oldest, so that the oldest name that fits is written last. Before its first name was seen, an id
        # had that name.
        history = list(versions.get(id_, ()))
        for older, newer in zip(reversed(history[:-1]), reversed(history[1:]), strict=True):
            is_before = pc.less(starts, pa.scalar(newer.valid_from, starts.type))
            found = pc.if_else(
                pc.and_(pc.equal(encoded.indices, pa.scalar(code, encoded.indices.type)), is_before), older.name, found
            )
    return found
