"""A reader of history and of the edge that looks all the while, each time at one moment of it."""

import threading
from collections import Counter
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from cache_pipeline.edge import EdgeStoreError, read, read_manifest
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.accounts import Books
from cache_pipeline_tests.chaos.truth import Figures, Truths
from cache_pipeline_tests.chaos.vendor import REPORTS, Declared

_COVERAGE = "SELECT series, final, provisional FROM cache_pipeline_state.coverage WHERE report = %s"


def history_of(
    connection: psycopg.Connection[Any], report: Declared, books: Books
) -> tuple[Figures, IntervalSet, IntervalSet]:
    """Figures, and what of them is complete and provisional; rows that are there twice are noted."""
    rows = SQL("SELECT interval_start, queue_id, coalesce({}, 0), coalesce({}, 0) FROM history.{} WHERE series = %s")
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = connection.execute(_COVERAGE, [report.name]).fetchall()
        if not found:
            return {}, IntervalSet(), IntervalSet()
        ((series, *covered),) = found
        query = rows.format(*map(Identifier, (*report.columns, report.name)))
        held = connection.execute(query, [series]).fetchall()
    _note_twice(f"history of {report.name}", ((start, group) for start, group, *_ in held), books)
    complete, provisional = (IntervalSet(Interval(part.lower, part.upper) for part in parts) for parts in covered)
    figures = {(start, group): (offered, int(talked)) for start, group, offered, talked in held if offered or talked}
    return figures, complete, provisional


def edge_of(url: str, report: Declared, books: Books) -> tuple[Figures, IntervalSet] | None:
    """Figures published, and the intervals that are; None where nothing is yet."""
    try:
        dataset = read_manifest(url).datasets.get(report.name)
        if dataset is None:
            return None
        rows = read(url, report.name, ["interval_start", "queue_id", *report.columns]).to_pylist()
    except EdgeStoreError as error:
        if "has no" not in str(error):
            books.note("partial", f"edge of {report.name}: a reader was told {error}")
        return None
    _note_twice(f"edge of {report.name}", ((row["interval_start"], row["queue_id"]) for row in rows), books)
    final = IntervalSet(
        part for file in dataset.files for part in file.covered_intervals() - file.provisional_intervals()
    )
    offered, talked = report.columns
    figures = {
        (row["interval_start"], row["queue_id"]): (int(row[offered] or 0), int(row[talked] or 0))
        for row in rows
        if row[offered] or row[talked]
    }
    return figures, final


def _note_twice(where: str, keys: Any, books: Books) -> None:
    for (start, group), times in Counter(keys).items():
        if times > 1:
            books.note("doubled", f"{where}: {times} rows of {start} {group}")


class Witness:
    """Looks until told to stop.

    Args:
        postgres_url: not through a proxy.
        edge_url: where the manifest is.
        truths: the vendor's.
        books: what is found goes there.
    """

    def __init__(self, postgres_url: str, edge_url: str, truths: Truths, books: Books) -> None:
        self._postgres_url, self._edge_url, self._truths, self._books = postgres_url, edge_url, truths, books
        self._over = threading.Event()
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        if self._broken is not None:
            raise RuntimeError("the witness saw something that it does not understand") from self._broken

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            try:
                with psycopg.connect(self._postgres_url, autocommit=True, connect_timeout=2) as connection:
                    while not self._over.wait(0.3):
                        self._look(connection)
                        self._books.counts["looks at history and edge"] += 1
            except psycopg.OperationalError:
                self._books.counts["looks that found PostgreSQL away"] += 1
            except Exception as error:  # noqa: BLE001 - told when it is stopped
                self._broken = error
                return

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        for report in REPORTS:
            held, complete, _ = history_of(connection, report, self._books)
            self._books.compare(f"history of {report.name}", held, self._truths.all_of(report), complete)
            published = edge_of(self._edge_url, report, self._books)
            if published is not None:
                self._books.compare(f"edge of {report.name}", published[0], self._truths.all_of(report), published[1])
