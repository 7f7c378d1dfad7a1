"""Answers as they were known at an earlier instant, from the superseded figures that history keeps. Nothing is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.errors import InvalidInterval, InvalidQuery
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant, parse_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import roll_up
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.cached_answers import AnswerLimits
from cache_pipeline.storage.answer import Answer, Completeness, render
from cache_pipeline.storage.ports.history import History, KnownThen

FIELD = "as_of"


def parse_as_of(text: str) -> datetime:
    """Parse the instant of a query.

    Raises:
        InvalidQuery: It is not an instant, or has no offset.
    """
    try:
        return parse_instant(text)
    except InvalidInterval as error:
        raise InvalidQuery(FIELD, str(error)) from error


@dataclass(frozen=True)
class PastAnswers:
    """Answers queries with final figures as they were known at an instant.

    Attributes:
        history: The tier that holds rows and coverage.
        columns: Returns the columns of a report.
        limits: How large an answer may be; None for any size.
    """

    history: History
    columns: Callable[[Report], tuple[Column, ...]]
    limits: AnswerLimits | None = None

    async def answer(self, query: CanonicalQuery, as_of: datetime) -> Answer:
        """Return the answer as it was known at an instant. It is always the same, for as long as it can be given.

        Raises:
            InvalidQuery: The report keeps no figures of that instant, or some of the interval was not final then.
            AnswerTooLarge: It has more rows or bytes than allowed.
        """
        source, interval = query.source_series, query.available_interval
        known = await asyncio.to_thread(self.history.known_as_of, source, interval, as_of)
        _check_instant(source.report, known, as_of)
        metrics = query.series.report.metrics
        if not known.final.covers(interval) and not source.report.rows and metrics != source.report.metrics:
            # Metrics that the query does not name need not have been stored.
            source = source.with_metrics(metrics)
            known = await asyncio.to_thread(self.history.known_as_of, source, interval, as_of)
        _check_final(source.report, known, interval, as_of)
        rows = await asyncio.to_thread(self._read, query, source, as_of)
        answer = await asyncio.to_thread(render, query, rows, Completeness(query.interval.end, None, None), as_of)
        if self.limits is not None:
            self.limits.check_bytes(query, len(answer.body))
        return answer

    def _read(self, query: CanonicalQuery, source: Series, as_of: datetime) -> pa.Table:
        rows = self.history.read(source, query.available_interval, self.columns(source.report), as_of)
        if query.rollup_source is not None:
            target = query.series.report
            rows = roll_up(rows, source.report, target, self.columns(target), query.interval)
        if self.limits is not None:
            self.limits.check_rows(query, rows.num_rows)
        return rows


def _check_instant(report: Report, known: KnownThen, as_of: datetime) -> None:
    """Refuse an instant of which nothing is kept."""
    keep, name = report.time_travel, report.name
    if keep is None:
        raise InvalidQuery(
            FIELD, f"{name} keeps no superseded figures: leave it out, or declare time_travel, such as P90D"
        )
    if as_of > known.now:
        raise InvalidQuery(FIELD, f"{format_instant(as_of)} is in the future: give an instant that has passed")
    if known.since is None:
        raise InvalidQuery(
            FIELD, f"{name} keeps superseded figures from the next time on that something of it is stored: leave it out"
        )
    earliest = max(known.since, known.now - keep)
    if as_of < earliest:
        first = (earliest + timedelta(seconds=1)).replace(microsecond=0)
        raise InvalidQuery(
            FIELD, f"{name} keeps superseded figures since {format_instant(first)}: give that instant or a later one"
        )


def _check_final(report: Report, known: KnownThen, interval: Interval, as_of: datetime) -> None:
    """Refuse an interval that was not final, because provisional figures are not kept."""
    if missing := IntervalSet([interval]) - known.final:
        final = f"ask for {', '.join(map(str, known.final))}, or give" if known.final else "give"
        raise InvalidQuery(
            FIELD,
            f"{report.name} {next(iter(missing))} was not final yet at {format_instant(as_of)}: {final} a later instant",
        )
