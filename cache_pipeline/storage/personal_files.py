"""Forgets a person in files: staged partitions are deleted, and something else takes the place of the id in logs."""

from __future__ import annotations

import gzip
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cache_pipeline.lazy_imports import pa, pc, pq
from cache_pipeline.query.person import Person
from cache_pipeline.storage.personal_data import Erasure

_BATCH_ROWS = 16 * 1024
_TEXT_SAMPLE = 8192
#: Writing one partition takes minutes at most.
_MAX_WRITING_SECONDS = 3600


class StagedFiles:
    """The folder of staged partitions. A run that needs a deleted one fetches it again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def forget(self, person: Person) -> Iterator[Erasure]:
        """Delete the staged partitions that name a person, and in any case what killed processes have left unfinished."""
        removed = left = 0
        for path in sorted(self._folder.rglob("*.parquet")):
            try:
                if _parquet_mentions(path, person):
                    path.unlink(missing_ok=True)
                    removed += 1
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException):
                left += 1
        for path in self._folder.rglob("*.part"):
            # Its rows cannot be read. If its writer lives, the file is about to be finished or deleted.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _MAX_WRITING_SECONDS:
                    path.unlink()
        note = "files that cannot be read: delete them" if left else ""
        yield Erasure("files", str(self._folder), removed=removed, left=left, note=note)


class LogFiles:
    """Folders with logs, and with what Dagster keeps in files."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)

    def forget(self, person: Person) -> Iterator[Erasure]:
        """Put something else in place of the id in every text, compressed by gzip or not."""
        for folder in self._folders:
            replaced, left = 0, list[Path]()
            paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
            for path in (path for path in paths if path.is_file() and not path.is_symlink()):
                with suppress(FileNotFoundError):
                    outcome = _replace_in_file(path, person)
                    replaced += outcome is True
                    left += [path] if outcome is False else []
            note = f"{left[0].name} is not a text: delete it" if left else ""
            yield Erasure("files", str(folder), replaced=replaced, left=len(left), note=note)


def _parquet_mentions(path: Path, person: Person) -> bool:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
        if any(person.occurs_in(key) or person.occurs_in(value) for key, value in (schema.metadata or {}).items()):
            return True
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        return bool(texts) and any(
            mentions_person(pa.Table.from_batches([batch]), person)
            for batch in file.iter_batches(_BATCH_ROWS, columns=texts, use_threads=False)
        )


def mentions_person(rows: pa.Table, person: Person) -> bool:
    """Return whether a text of some rows mentions a person."""
    for field in rows.schema:
        if pa.types.is_string(field.type):
            for form in person.forms:
                found = pc.filter(rows[field.name], pc.match_substring(rows[field.name], form))  # pyright: ignore
                if any(person.occurs_in(text) for text in found.to_pylist()):
                    return True
    return False


def _replace_in_file(path: Path, person: Person) -> bool | None:
    """Replace the id in a file. Return None if it was not there, and False if the file is no text."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    return _replace_in_compressed(path, person) if is_compressed else _replace_in_place(path, person)


def _replace_in_place(path: Path, person: Person) -> bool | None:
    """Write over the id only, so that a process that appends to the file meanwhile loses nothing."""
    times, is_found, end = path.stat(), False, -1
    with path.open("rb") as file:
        while (size := os.fstat(file.fileno()).st_size) > end:
            file.seek(0)
            content, end = file.read(size), size
            found = person.find_in(content)
            if not found:
                continue
            if b"\0" in content[:_TEXT_SAMPLE]:
                return False
            with path.open("r+b", buffering=0) as writing:
                if not os.path.samestat(os.fstat(file.fileno()), os.fstat(writing.fileno())):
                    # The log was rotated meanwhile, and another file has its name.
                    return _replace_in_place(path, person) or is_found or None
                for offset, text in found:
                    os.pwrite(writing.fileno(), text, offset)
                os.utime(writing.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
            is_found = True
    return is_found or None


def _replace_in_compressed(path: Path, person: Person) -> bool | None:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    if not person.occurs_in(content):
        return None
    if b"\0" in content[:_TEXT_SAMPLE]:
        return False
    partial = path.with_name(f".{path.name}.forget")
    partial.write_bytes(gzip.compress(person.replace_in(content)))
    shutil.copystat(path, partial)
    partial.replace(path)
    return True
