"""Writes fetched partitions to history, beside the newer figures that it may hold by then."""

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
    """Write what the vendor was asked for, rows and coverage in one transaction.

    Args:
        history: where.
        series: whose rows.
        partitions: what came out of history stays as it is there, and so does what others have asked for since.
        claims: the ledger's entries that the rows come from.
        on_stored: hears of it afterwards.

    Raises:
        LeaseLost: another process has taken over one of the claims.
    """
    asked = [partition for partition in partitions if partition.from_vendor]
    if not asked:
        return
    newer = IntervalSet()
    while replacement := _replacement(series, asked, newer, claims):
        try:
            with span("store history", report=series.report.name):
                await asyncio.to_thread(history.replace, replacement)
            break
        except NewerDataPresent as held:
            newer |= held.intervals
    await asyncio.to_thread(on_stored, series.report, [_told(partition) for partition in asked])


def _replacement(
    series: Series, partitions: Sequence[FetchedPartition], newer: IntervalSet, claims: Sequence[LedgerClaim]
) -> Replacement | None:
    """What partitions bring to history beside the newer figures that it holds."""
    brought = [(each, kept) for each in partitions if (kept := each.from_vendor - newer)]
    if not brought:
        return None
    return Replacement(
        series=series,
        final=IntervalSet(part for each, kept in brought for part in each.final(series.report) & kept),
        provisional=IntervalSet(part for each, kept in brought for part in each.provisional(series.report) & kept),
        rows=Rows.concat(
            brought[0][0].rows.schema, (each.rows.within(part) for each, kept in brought for part in kept)
        ),
        watermark=max(each.watermark for each, _ in brought),
        fetch_times=tuple(FetchTime(kept, each.fetched_at) for each, kept in brought),
        claims=tuple(claims),
    )


def _told(partition: FetchedPartition) -> RowsStored:
    return RowsStored(
        partition.interval,
        partition.rows.num_rows,
        sum(chunk.calls for chunk in partition.chunks),
        partition.watermark,
        partition.fetched_at,
    )
