"""How reports and jobs stand, for whoever watches: a few statements, however many reports there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cache_pipeline.api.jobs.job_store import Pool
from cache_pipeline.query.series import Series

#: Verdicts and ended jobs count for so long after they fell.
_LATELY = timedelta(hours=1)

_HELD = """
    SELECT c.series, c.watermark, lower(c.final) AS complete_from, upper(c.final) AS complete_through,
           (SELECT min(f.fetched_at) FROM cache_pipeline_state.fetch_time AS f
            WHERE f.series = c.series AND f.intervals && c.provisional) AS provisional_fetched_at
    FROM cache_pipeline_state.coverage AS c WHERE c.series = ANY(%(series)s)
"""

_VERDICTS = """
    SELECT series, verdict, count(*) AS answers FROM cache_pipeline_state.chunk_result
    WHERE series = ANY(%(series)s) AND fetched_at > %(since)s GROUP BY series, verdict
"""

# A job that workers died of is parked as failed; a message that no job can be made of lies in a table of its own.
_TROUBLE = """
    SELECT (SELECT extract(epoch FROM now() - min(greatest(created_at, not_before)))
            FROM cache_pipeline_state.job WHERE state = 'queued' AND not_before <= now())::float8 AS oldest,
           (SELECT count(*) FROM cache_pipeline_state.job
            WHERE state = 'failed' AND problem->>'type' LIKE '%%:given-up') AS parked_jobs,
           (SELECT count(*) FROM cache_pipeline_state.dead_letter
            WHERE dead_lettered_at > now() - interval '1 day') AS parked_messages
"""

_FAILED = """
    SELECT split_part(problem->>'type', ':', 4) AS kind, count(*) AS jobs FROM cache_pipeline_state.job
    WHERE state = 'failed' AND finished_at > now() - %(lately)s::interval GROUP BY kind
"""


@dataclass(frozen=True)
class ReportFreshness:
    """What history holds of one series.

    Attributes:
        watermark: the latest seen, or None.
        complete_from, complete_through: ends of what is final; None where nothing is.
        provisional_fetched_at: when the oldest provisional figure was fetched; None where none is held.
    """

    watermark: datetime | None
    complete_from: datetime | None
    complete_through: datetime | None
    provisional_fetched_at: datetime | None


@dataclass(frozen=True)
class JobBacklog:
    """What nobody gets on with.

    Attributes:
        oldest_seconds: how long the oldest job has waited that could be taken; 0 where none waits.
        parked: jobs that workers ended in the middle of, and messages that are no job's; of the last day.
        failed: jobs that failed within the last hour, by the kind of problem.
    """

    oldest_seconds: float
    parked: Mapping[str, int]
    failed: Mapping[str, int]


class StatusQueries:
    """Reads them from PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def held(self, series: Iterable[Series]) -> dict[str, ReportFreshness]:
        """What history holds, by the series' ids; those that were never fetched are left out."""
        rows = await self._all(_HELD, {"series": [each.id for each in series]})
        return {row.pop("series"): ReportFreshness(**row) for row in rows}

    async def verdicts(self, series: Iterable[Series], now: datetime) -> dict[tuple[str, str], int]:
        """How many of the vendor's answers were judged how within the last hour, by series' id and verdict."""
        rows = await self._all(_VERDICTS, {"series": [each.id for each in series], "since": now - _LATELY})
        return {(row["series"], row["verdict"]): row["answers"] for row in rows}

    async def trouble(self) -> JobBacklog:
        """Jobs that wait, were parked or failed."""
        (row,) = await self._all(_TROUBLE, {})
        failed = await self._all(_FAILED, {"lately": _LATELY})
        return JobBacklog(
            row["oldest"] or 0.0,
            {"job": row["parked_jobs"], "message": row["parked_messages"]},
            {each["kind"] or "unknown": each["jobs"] for each in failed},
        )

    async def _all(self, query: str, values: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query.encode(), values)).fetchall()
