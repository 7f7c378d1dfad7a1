"""Writes fetched partitions to history, without overwriting newer figures that it may hold by then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.fetch.write_events import OnStored, RowsStored
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.postgres.fetch_times import NewerDataPresent
from cache_pipeline.storage.postgres.history import History, Replacement
from cache_pipeline.storage.postgres.ledger import LedgerClaim
from cache_pipeline.telemetry.spans import span


async def store_partitions(
    history: History,
    series: Series,
    partitions: Sequence[FetchedPartition],
    claims: Sequence[LedgerClaim],
    on_stored: OnStored,
) -> None:
    """Write what was fetched from the vendor, rows and coverage in one transaction.

    Args:
        history: The tier to write to.
        series: The series of the rows.
        partitions: The fetched partitions. Rows that came from history are not written again, and newer rows are kept.
        claims: The ledger entries that the rows come from.
        on_stored: Called after the write.

    Raises:
        LeaseLost: Another process has taken over one of the claims.
    """
    fetched = [partition for partition in partitions if partition.from_vendor]
    if not fetched:
        return
    newer = IntervalSet()
    while replacement := _build_replacement(series, fetched, newer, claims):
        try:
            with span("store history", report=series.report.name):
                await asyncio.to_thread(history.replace, replacement)
            break
        except NewerDataPresent as error:
            newer |= error.intervals
    await asyncio.to_thread(on_stored, series.report, [_event(partition) for partition in fetched])


def _build_replacement(
    series: Series, partitions: Sequence[FetchedPartition], newer: IntervalSet, claims: Sequence[LedgerClaim]
) -> Replacement | None:
    """Return what to write for some partitions apart from newer stored figures; None if nothing is left."""
    parts = [(each, intervals) for each in partitions if (intervals := each.from_vendor - newer)]
    if not parts:
        return None
    return Replacement(
        series=series,
        final=IntervalSet(part for each, intervals in parts for part in each.final(series.report) & intervals),
        provisional=IntervalSet(
            part for each, intervals in parts for part in each.provisional(series.report) & intervals
        ),
        rows=Rows.concat(
            parts[0][0].rows.schema, (each.rows.within(part) for each, intervals in parts for part in intervals)
        ),
        watermark=max(each.watermark for each, _ in parts),
        fetch_times=tuple(FetchTime(intervals, each.fetched_at) for each, intervals in parts),
        claims=tuple(claims),
    )


def _event(partition: FetchedPartition) -> RowsStored:
    return RowsStored(
        partition.interval,
        partition.rows.num_rows,
        sum(chunk.calls for chunk in partition.chunks),
        partition.watermark,
        partition.fetched_at,
    )
