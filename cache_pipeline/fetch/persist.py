"""Writes verified rows to history, without overwriting newer figures that it may hold by then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cache_pipeline.fetch.verified_rows import VerifiedRows
from cache_pipeline.fetch.write_events import OnStored, RowsStored
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.ports.history import History, NewerDataPresent, Replacement
from cache_pipeline.storage.ports.ledger import LedgerClaim
from cache_pipeline.telemetry.spans import span


async def store_verified(
    history: History,
    series: Series,
    verified: Sequence[VerifiedRows],
    claims: Sequence[LedgerClaim],
    on_stored: OnStored,
) -> None:
    """Write what was fetched from the vendor, rows and coverage in one transaction.

    Args:
        history: The tier to write to.
        series: The series of the rows.
        verified: The rows, interval by interval. Those that came from history are not written again, and newer rows are kept.
        claims: The ledger entries that the rows come from.
        on_stored: Called after the write.

    Raises:
        LeaseLost: Another process has taken over one of the claims.
    """
    fetched = [each for each in verified if each.from_vendor]
    if not fetched:
        return
    newer = IntervalSet()
    while True:
        parts = [(each, intervals) for each in fetched if (intervals := each.from_vendor - newer)]
        try:
            with span("store history", report=series.report.name):
                await asyncio.to_thread(
                    history.replace, _build_replacement(series, fetched[0].rows.schema, parts, claims)
                )
            break
        except NewerDataPresent as error:
            newer |= error.intervals
    if parts:
        events = [event for each, intervals in parts for event in _events(each, intervals)]
        await asyncio.to_thread(on_stored, series.report, events)


def _build_replacement(
    series: Series,
    schema: pa.Schema,
    parts: Sequence[tuple[VerifiedRows, IntervalSet]],
    claims: Sequence[LedgerClaim],
) -> Replacement:
    """Return what to write: some intervals of each of the rows.

    It is empty if history holds newer rows of everything; the claims must be closed even then.
    """
    report = series.report
    return Replacement(
        series=series,
        final=IntervalSet(part for each, intervals in parts for part in each.final(report) & intervals),
        provisional=IntervalSet(part for each, intervals in parts for part in each.provisional(report) & intervals),
        rows=Rows.concat(schema, (each.rows.within(part) for each, intervals in parts for part in intervals)),
        watermark=max((each.watermark for each, _ in parts), default=None),
        fetch_times=tuple(time for each, intervals in parts for time in each.fetch_times_of(intervals)),
        claims=tuple(claims),
        second_looks={
            reason: IntervalSet(
                part
                for each, intervals in parts
                for part in each.second_looks.get(reason, IntervalSet()) & intervals & each.provisional(report)
            )
            for reason in SecondLook
        },
    )


def _events(verified: VerifiedRows, written: IntervalSet) -> list[RowsStored]:
    """Return one event for each interval that was written. Listeners add up calls, so only the first has them."""
    calls = sum(chunk.calls for chunk in verified.chunks)
    return [
        RowsStored(
            interval,
            verified.rows.within(interval).num_rows,
            0 if number else calls,
            verified.watermark,
            min(each.at for each in verified.fetch_times_of(IntervalSet([interval]))),
        )
        for number, interval in enumerate(written)
    ]
