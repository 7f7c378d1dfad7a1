"""How the vendor's answers were judged, and what their lengths taught, kept between runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from psycopg.sql import SQL, Literal

from cache_pipeline.query.completeness import MIN_TRUNCATION_ROWS, ChunkResult, TruncationStats
from cache_pipeline.query.series import Series

#: Vendors change their limits; one that was not met for so long is forgotten, so that long queries are tried again.
_CUT_REMEMBERED = timedelta(days=30)
_INSTANT = pa.timestamp("us", tz="UTC")


def read_truncation_stats(cursor: Any, series: Series, now: datetime, *, lock: bool = False) -> TruncationStats:
    """What is known of the lengths of a series' answers."""
    query = SQL(
        "SELECT longest_complete, CASE WHEN truncated_at > {since} THEN shortest_truncated END"
        " FROM cache_pipeline_state.truncation_stats WHERE series = {series} {lock}"
    ).format(since=Literal(now - _CUT_REMEMBERED), series=Literal(series.id), lock=SQL("FOR UPDATE" if lock else ""))
    cursor.execute(query.as_string())
    row = cursor.fetchone()
    return TruncationStats(*row) if row else TruncationStats()


def record_chunks(cursor: Any, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
    """Keep some verdicts, and what they teach."""
    count = len(chunks)
    table = pa.table(
        {
            "series": pa.array([series.id] * count, pa.string()),
            "start": pa.array([chunk.interval.start for chunk in chunks], _INSTANT),
            "end": pa.array([chunk.interval.end for chunk in chunks], _INSTANT),
            "expected": pa.array([chunk.expected for chunk in chunks], pa.float64()),
            "source": pa.array([chunk.source for chunk in chunks], pa.string()),
            "got": pa.array([chunk.got for chunk in chunks], pa.int64()),
            "verdict": pa.array([chunk.verdict for chunk in chunks], pa.string()),
            "calls": pa.array([chunk.calls for chunk in chunks], pa.int64()),
            "seconds": pa.array([chunk.seconds for chunk in chunks], pa.float64()),
            "watermark": pa.array([chunk.watermark for chunk in chunks], _INSTANT),
            "fetched_at": pa.array([now] * count, _INSTANT),
            "length": pa.array([chunk.length for chunk in chunks], pa.int64()),
            "parts": pa.array([chunk.parts for chunk in chunks], pa.int64()),
        }
    )
    cursor.executemany(
        "INSERT INTO cache_pipeline_state.chunk_result (series, interval, expected_rows, expectation_source,"
        " final_rows, verdict, requests, duration_seconds,"
        " watermark, fetched_at, total_rows, parts)"
        " VALUES ($1, tstzrange($2, $3), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        table,
    )
    _learn(cursor, series, chunks, now)


def _learn(cursor: Any, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
    first = SQL(
        "INSERT INTO cache_pipeline_state.truncation_stats (series, longest_complete) VALUES ({}, -1) ON CONFLICT DO NOTHING"
    )
    cursor.execute(first.format(Literal(series.id)).as_string())
    before = read_truncation_stats(cursor, series, now, lock=True)
    # A shorter answer that proved to be cut off was broken, not limited: that is over with the run.
    telling = [chunk for chunk in chunks if not chunk.is_truncated or chunk.length >= MIN_TRUNCATION_ROWS]
    after, is_cut = before.after(telling), any(chunk.is_truncated for chunk in telling)
    if after == before and not is_cut:
        return
    update = SQL(
        "UPDATE cache_pipeline_state.truncation_stats SET longest_complete = {whole}, shortest_truncated = {cut},"
        " truncated_at = CASE WHEN {met} THEN {now} ELSE truncated_at END WHERE series = {series}"
    ).format(
        whole=Literal(after.longest_complete),
        cut=Literal(after.shortest_truncated),
        met=Literal(is_cut),
        now=Literal(now),
        series=Literal(series.id),
    )
    cursor.execute(update.as_string())
