"""A reader that checks history and published files during the faults, each time in one consistent snapshot."""

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from cache_pipeline.edge import EdgeStoreError, read, read_manifest
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.scenario import REPORTS, ChaosReport
from cache_pipeline_tests.chaos.truth import Figures, VendorTruth

_COVERAGE = "SELECT series, final, provisional FROM cache_pipeline_state.coverage WHERE report = %s"


def read_history(
    connection: psycopg.Connection[Any], report: ChaosReport, outcome: Outcome
) -> tuple[Figures, IntervalSet, IntervalSet]:
    """Return a report's figures in history with their final and provisional coverage, and record duplicate rows."""
    rows = SQL("SELECT interval_start, queue_id, coalesce({}, 0), coalesce({}, 0) FROM history.{} WHERE series = %s")
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = connection.execute(_COVERAGE, [report.name]).fetchall()
        if not found:
            return {}, IntervalSet(), IntervalSet()
        ((series, *covered),) = found
        query = rows.format(*map(Identifier, (*report.columns, report.name)))
        stored = connection.execute(query, [series]).fetchall()
    _record_duplicates(f"history of {report.name}", ((start, group) for start, group, *_ in stored), outcome)
    complete, provisional = (IntervalSet(Interval(part.lower, part.upper) for part in parts) for parts in covered)
    figures = {(start, group): (offered, int(talked)) for start, group, offered, talked in stored if offered or talked}
    return figures, complete, provisional


def read_edge(url: str, report: ChaosReport, outcome: Outcome) -> tuple[Figures, IntervalSet] | None:
    """Return a report's published figures and final intervals, or None before its first publication."""
    try:
        dataset = read_manifest(url).datasets.get(report.name)
        if dataset is None:
            return None
        rows = read(url, report.name, ["interval_start", "queue_id", *report.columns]).to_pylist()
    except EdgeStoreError as error:
        if "has no" not in str(error):
            outcome.record("partial", f"edge of {report.name}: a reader failed: {error}")
        return None
    _record_duplicates(f"edge of {report.name}", ((row["interval_start"], row["queue_id"]) for row in rows), outcome)
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


def _record_duplicates(source: str, keys: Iterable[tuple[Any, str]], outcome: Outcome) -> None:
    for (start, group), times in Counter(keys).items():
        if times > 1:
            outcome.record("duplicated", f"{source}: {times} rows for {start} {group}")


class ConsistencyReader:
    """A thread that reads history and published files until stopped and records violations.

    Args:
        postgres_url: URL of PostgreSQL, not through a proxy.
        edge_url: URL of the folder that holds the manifest.
        truth: The vendor's data.
        outcome: Receives the violations.
    """

    def __init__(self, postgres_url: str, edge_url: str, truth: VendorTruth, outcome: Outcome) -> None:
        self._postgres_url, self._edge_url, self._truth, self._outcome = postgres_url, edge_url, truth, outcome
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread.

        Raises:
            RuntimeError: A read failed for another reason than a PostgreSQL that was down.
        """
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise RuntimeError("reading history or published files failed unexpectedly") from self._error

    def _run(self) -> None:
        while not self._stopping.wait(0.3):
            try:
                with psycopg.connect(self._postgres_url, autocommit=True, connect_timeout=2) as connection:
                    while not self._stopping.wait(0.3):
                        self._read_and_compare(connection)
                        self._outcome.counts["reads of history and edge"] += 1
            except psycopg.OperationalError:
                self._outcome.counts["reads that found PostgreSQL down"] += 1
            except Exception as error:  # noqa: BLE001 - raised by stop()
                self._error = error
                return

    def _read_and_compare(self, connection: psycopg.Connection[Any]) -> None:
        for report in REPORTS:
            stored, complete, _ = read_history(connection, report, self._outcome)
            self._outcome.compare(f"history of {report.name}", stored, self._truth.versions(report), complete)
            published = read_edge(self._edge_url, report, self._outcome)
            if published is not None:
                figures, final = published
                self._outcome.compare(f"edge of {report.name}", figures, self._truth.versions(report), final)
