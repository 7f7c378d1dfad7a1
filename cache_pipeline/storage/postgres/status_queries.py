"""SQL queries behind the metrics: freshness of reports, and jobs that need attention.

They take a few statements, however many reports there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.status import FailedJob, JobBacklog, ReportFreshness
from cache_pipeline.storage.postgres.async_pool import Pool, connect

#: How long verdicts and finished jobs are counted.
_RECENT = timedelta(hours=1)

_FRESHNESS = """
    WITH wanted AS (
        SELECT name AS series, metric FROM jsonb_to_recordset(%(series)s::jsonb) AS w (name text, metrics text[]),
            unnest(w.metrics) AS metric),
    held AS (
        SELECT w.series, max(c.watermark) AS watermark, coalesce(range_agg(c.final), '{}') AS final,
               (SELECT min(f.fetched_at) FROM cache_pipeline_state.fetch_time AS f
                WHERE f.series = w.series AND w.metric = ANY(f.metrics) AND f.intervals && range_agg(c.provisional))
                   AS provisional_fetched_at
        FROM wanted AS w LEFT JOIN cache_pipeline_state.coverage AS c ON c.series = w.series AND w.metric = ANY(c.metrics)
        GROUP BY w.series, w.metric)
    SELECT series, max(watermark) AS watermark, lower(range_intersect_agg(final)) AS complete_from,
           upper(range_intersect_agg(final)) AS complete_through, min(provisional_fetched_at) AS provisional_fetched_at
    FROM held GROUP BY series HAVING count(watermark) > 0
"""

_VERDICTS = """
    SELECT series, verdict, count(*) AS answers FROM cache_pipeline_state.chunk_result
    WHERE series = ANY(%(series)s) AND fetched_at > %(since)s GROUP BY series, verdict
"""

_REQUESTS = """
    SELECT series, sum(requests)::bigint AS requests FROM cache_pipeline_state.chunk_result
    WHERE series = ANY(%(series)s) AND fetched_at >= %(since)s GROUP BY series
"""

_LAST_FAILED_JOBS = """
    SELECT report, finished_at, problem FROM cache_pipeline_state.job
    WHERE tenant = %(tenant)s AND state = 'failed' ORDER BY finished_at DESC LIMIT %(limit)s
"""

# A job whose workers died is stored as failed. A message that names no job has a table of its own.
_BACKLOG = """
    SELECT (SELECT extract(epoch FROM now() - min(greatest(created_at, not_before)))
            FROM cache_pipeline_state.job WHERE state = 'queued' AND not_before <= now())::float8 AS oldest,
           (SELECT count(*) FROM cache_pipeline_state.job
            WHERE state = 'failed' AND problem->>'type' LIKE '%%:dead-lettered') AS dead_letter_jobs,
           (SELECT count(*) FROM cache_pipeline_state.dead_letter
            WHERE dead_lettered_at > now() - interval '1 day') AS dead_letter_messages
"""

_FAILED_JOBS = """
    SELECT split_part(problem->>'type', ':', 4) AS kind, count(*) AS jobs FROM cache_pipeline_state.job
    WHERE state = 'failed' AND finished_at > now() - %(recent)s::interval GROUP BY kind
"""


class PostgresStatusQueries:
    """Reads the status of reports and jobs from PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def freshness(self, series: Iterable[Series]) -> dict[str, ReportFreshness]:
        """Return the freshness of stored data by series id; series that were never fetched are left out."""
        wanted = [{"name": each.id, "metrics": each.report.metrics} for each in series]
        rows = await self._fetch_all(_FRESHNESS, {"series": json.dumps(wanted)})
        return {row.pop("series"): ReportFreshness(**row) for row in rows}

    async def verdict_counts(self, series: Iterable[Series], now: datetime) -> dict[tuple[str, str], int]:
        """Count the vendor's answers of the last hour by series id and verdict."""
        rows = await self._fetch_all(_VERDICTS, {"series": [each.id for each in series], "since": now - _RECENT})
        return {(row["series"], row["verdict"]): row["answers"] for row in rows}

    async def vendor_requests(self, series: Iterable[Series], since: datetime) -> dict[str, int]:
        """Count the requests to the vendor behind the answers stored since an instant, by series id."""
        rows = await self._fetch_all(_REQUESTS, {"series": [each.id for each in series], "since": since})
        return {row["series"]: row["requests"] for row in rows}

    async def failed_jobs(self, tenant: str, limit: int) -> list[FailedJob]:
        """Return the last jobs of a tenant that failed, the latest first."""
        rows = await self._fetch_all(_LAST_FAILED_JOBS, {"tenant": tenant, "limit": limit})
        return [FailedJob(**row) for row in rows]

    async def job_backlog(self) -> JobBacklog:
        """Return how long jobs wait, and which were dead-lettered or failed."""
        (row,) = await self._fetch_all(_BACKLOG, {})
        failed = await self._fetch_all(_FAILED_JOBS, {"recent": _RECENT})
        return JobBacklog(
            row["oldest"] or 0.0,
            {"job": row["dead_letter_jobs"], "message": row["dead_letter_messages"]},
            {each["kind"] or "unknown": each["jobs"] for each in failed},
        )

    async def _fetch_all(self, query: str, values: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        async with connect(self._pool) as connection:
            return await (await connection.execute(query.encode(), values)).fetchall()
