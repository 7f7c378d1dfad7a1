"""Verdicts on vendor answers, and the truncation statistics learned from them, stored between runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.sql import SQL, Literal

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.completeness import MIN_TRUNCATION_ROWS, ChunkResult, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.ranges import text_array

#: Vendors change their limits. One that was not met for this long is forgotten, so that long queries are tried again.
_TRUNCATION_RETENTION = timedelta(days=30)


def record_chunks(cursor: Any, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
    """Store the results of some chunks, and update the series' truncation statistics."""
    count, instant = len(chunks), pa.timestamp("us", tz="UTC")
    table = pa.table(
        {
            "series": pa.array([series.id] * count, pa.string()),
            "start": pa.array([chunk.interval.start for chunk in chunks], instant),
            "end": pa.array([chunk.interval.end for chunk in chunks], instant),
            "expected_rows": pa.array([chunk.expected for chunk in chunks], pa.float64()),
            "expectation_source": pa.array([chunk.source for chunk in chunks], pa.string()),
            "final_rows": pa.array([chunk.got for chunk in chunks], pa.int64()),
            "verdict": pa.array([chunk.verdict for chunk in chunks], pa.string()),
            "requests": pa.array([chunk.calls for chunk in chunks], pa.int64()),
            "duration_seconds": pa.array([chunk.seconds for chunk in chunks], pa.float64()),
            "watermark": pa.array([chunk.watermark for chunk in chunks], instant),
            "fetched_at": pa.array([now] * count, instant),
            "total_rows": pa.array([chunk.length for chunk in chunks], pa.int64()),
            "parts": pa.array([chunk.parts for chunk in chunks], pa.int64()),
            "sent_rows": pa.array([_sent_rows(chunk) for chunk in chunks], pa.string()),
            "metrics": pa.array([json.dumps(series.report.metrics)] * count, pa.string()),
        }
    )
    cursor.execute_many(
        "INSERT INTO cache_pipeline_state.chunk_result (series, interval, expected_rows, expectation_source,"
        " final_rows, verdict, requests, duration_seconds, watermark, fetched_at, total_rows, parts, sent_rows,"
        " metrics) VALUES ($1, tstzrange($2, $3), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::jsonb,"
        " ARRAY(SELECT jsonb_array_elements_text($15::jsonb)))",
        table,
    )
    _update_truncation_stats(cursor, series, chunks, now)


def _sent_rows(chunk: ChunkResult) -> str | None:
    if not chunk.sent or chunk.is_superseded:
        return None
    return json.dumps({start.isoformat(): rows for start, rows in chunk.sent.items()})


def read_sent_rows(cursor: Any, series: Series, interval: Interval) -> dict[datetime, int]:
    """Read how many rows the vendor sent of each final bucket of an interval, where it split groups further than asked."""
    query = SQL(
        "SELECT sent.key::timestamptz, sent.value::int8 FROM cache_pipeline_state.chunk_result AS c,"
        " jsonb_each_text(c.sent_rows) AS sent"
        " WHERE c.series = {series} AND c.metrics = {metrics} AND c.sent_rows IS NOT NULL"
        " AND c.interval && tstzrange({start}, {end}) ORDER BY c.fetched_at, c.id"
    ).format(
        series=Literal(series.id),
        metrics=text_array(series.report.metrics),
        start=Literal(interval.start),
        end=Literal(interval.end),
    )
    cursor.execute(query.as_string())
    return dict(cursor.fetchall())


def read_truncation_stats(cursor: Any, series: Series, now: datetime, *, lock: bool = False) -> TruncationStats:
    """Read what is known about the lengths of a series' answers; with `lock` until the transaction ends."""
    query = SQL(
        "SELECT longest_complete, CASE WHEN truncated_at > {since} THEN shortest_truncated END,"
        " CASE WHEN refused_at > {since} THEN extract(epoch FROM shortest_refused)::float8 END,"
        " failed_once::text, most_bytes_complete, CASE WHEN truncated_at > {since} THEN fewest_bytes_truncated END"
        " FROM cache_pipeline_state.truncation_stats WHERE series = {series} {lock}"
    ).format(
        since=Literal(now - _TRUNCATION_RETENTION), series=Literal(series.id), lock=SQL("FOR UPDATE" if lock else "")
    )
    cursor.execute(query.as_string())
    row = cursor.fetchone()
    if row is None:
        return TruncationStats()
    longest, truncated, refused_seconds, failed, most_bytes, fewest_bytes = row
    return TruncationStats(
        longest,
        truncated,
        None if refused_seconds is None else timedelta(seconds=refused_seconds),
        frozenset(timedelta(seconds=each) for each in json.loads(failed or "[]")),
        most_bytes,
        fewest_bytes,
    )


def _update_truncation_stats(cursor: Any, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
    insert = SQL(
        "INSERT INTO cache_pipeline_state.truncation_stats (series, longest_complete) VALUES ({}, -1) ON CONFLICT DO NOTHING"
    )
    cursor.execute(insert.format(Literal(series.id)).as_string())
    before = read_truncation_stats(cursor, series, now, lock=True)
    # A truncated answer shorter than any plausible limit was broken, not limited, and says nothing about the next run.
    evidence = [chunk for chunk in chunks if not chunk.is_truncated or chunk.length >= MIN_TRUNCATION_ROWS]
    after, is_truncated = before.with_results(evidence), any(chunk.is_truncated for chunk in evidence)
    is_refused = any(chunk.verdict is Verdict.refused for chunk in evidence)
    is_refused |= after.shortest_refused != before.shortest_refused
    if after == before and not is_truncated and not is_refused:
        return
    update = SQL(
        "UPDATE cache_pipeline_state.truncation_stats SET longest_complete = {longest}, shortest_truncated = {shortest},"
        " most_bytes_complete = {most_bytes}, fewest_bytes_truncated = {fewest_bytes},"
        " truncated_at = CASE WHEN {is_truncated} THEN {now} ELSE truncated_at END,"
        " shortest_refused = {refused_seconds} * interval '1 second',"
        " refused_at = CASE WHEN {is_refused} THEN {now} ELSE refused_at END, failed_once = {failed}::jsonb"
        " WHERE series = {series}"
    ).format(
        longest=Literal(after.longest_complete),
        shortest=Literal(after.shortest_truncated),
        most_bytes=Literal(after.most_bytes_complete),
        fewest_bytes=Literal(after.fewest_bytes_truncated),
        is_truncated=Literal(is_truncated),
        refused_seconds=Literal(after.shortest_refused.total_seconds() if after.shortest_refused else None),
        is_refused=Literal(is_refused),
        failed=Literal(json.dumps(sorted(each.total_seconds() for each in after.failed_once))),
        now=Literal(now),
        series=Literal(series.id),
    )
    cursor.execute(update.as_string())
