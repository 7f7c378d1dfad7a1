"""An answer as it goes out: rows, and until when they are complete."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from cache_pipeline.query.calendar import floor_to_step
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.series import CanonicalQuery


@dataclass(frozen=True)
class Completeness:
    """What is known of an interval's rows.

    Attributes:
        complete_through: the instant before which every bucket is final; the interval's start where none is.
        provisional_from: start of the first bucket that is held but not final, or None.
        fetched_at: when the oldest provisional part was fetched or, where all is final, the oldest part; None where that
            is not known.
    """

    complete_through: datetime
    provisional_from: datetime | None
    fetched_at: datetime | None


def rolled_up(kept: Completeness, query: CanonicalQuery) -> Completeness:
    """What is known of longer buckets, where ``kept`` is known of the shorter ones that they are made of."""
    report = query.series.report
    through = kept.complete_through
    if through < query.interval.end:
        through = max(floor_to_step(through, report.step, report.zone), query.interval.start)
    return Completeness(through, through if through < query.interval.end else None, kept.fetched_at)


@dataclass(frozen=True)
class Answer:
    """Bytes ready to be sent, and what a cache in between needs to know of them."""

    body: bytes
    etag: str
    completeness: Completeness


def _optional(instant: datetime | None) -> str | None:
    return format_instant(instant) if instant else None


def _plain(value: object) -> object:
    return format_instant(value) if isinstance(value, datetime) else value


def render(query: CanonicalQuery, rows: pa.Table, completeness: Completeness) -> Answer:
    """The JSON form of an answer: column names once, then rows as lists; instants are ISO 8601 in UTC."""
    columns = {name: [_plain(value) for value in rows[name].to_pylist()] for name in rows.schema.names}
    document = {
        "report": query.series.report.name,
        "interval": str(query.interval),
        "granularity": query.series.report.granularity,
        "timeZone": query.series.report.time_zone,
        "completeThrough": format_instant(completeness.complete_through),
        "provisionalFrom": _optional(completeness.provisional_from),
        "fetchedAt": _optional(completeness.fetched_at),
        "columns": list(columns),
        "rows": list(zip(*columns.values(), strict=True)),
    }
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return Answer(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', completeness)
