"""An answer as it is sent to a client, and until when its rows are complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.calendar import floor_to_step
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.schema import Column, to_arrow_schema
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.rendering import rows_as_json


@dataclass(frozen=True)
class Completeness:
    """How complete the rows of an interval are.

    Attributes:
        complete_through: The instant before which every bucket is final; the interval's start if none is.
        provisional_from: Start of the first stored bucket that is not final, or None.
        fetched_at: When the oldest provisional part was fetched or, if all parts are final, the oldest part. None if that
            is unknown.
        fresh_until: When the first provisional part must be fetched again; None if all are final or that is unknown.
    """

    complete_through: datetime
    provisional_from: datetime | None
    fetched_at: datetime | None
    fresh_until: datetime | None = None


def roll_up_completeness(completeness: Completeness, query: CanonicalQuery) -> Completeness:
    """Return the completeness of a query's longer buckets, given that of the shorter buckets they are rolled up from."""
    report = query.series.report
    through = completeness.complete_through
    if through < query.interval.end:
        through = max(floor_to_step(through, report.step, report.zone), query.interval.start)
    provisional_from = through if through < query.interval.end else None
    return replace(completeness, complete_through=through, provisional_from=provisional_from)


@dataclass(frozen=True)
class Answer:
    """Bytes that are ready to be sent, with what an HTTP cache needs to know about them.

    Attributes:
        body: The answer as JSON.
        etag: Identifies these bytes.
        completeness: How complete the rows are.
        rows: The rows, if the answer was just rendered from them; None if it comes from the hot tier.
    """

    body: bytes
    etag: str
    completeness: Completeness
    rows: pa.Table | None = field(default=None, compare=False, repr=False)


def render(query: CanonicalQuery, rows: pa.Table, completeness: Completeness, as_of: datetime | None = None) -> Answer:
    """Render an answer as JSON: column names once, then rows as lists; instants are ISO 8601 in UTC.

    This may take seconds, so an event loop calls it in a thread.

    Args:
        query: The query.
        rows: The rows.
        completeness: How complete they are.
        as_of: When they were known, if that is not now.
    """
    document = {
        "report": query.series.report.name,
        "interval": str(query.interval),
        "granularity": query.series.report.granularity,
        "timeZone": query.series.report.time_zone,
        "completeThrough": format_instant(completeness.complete_through),
        "provisionalFrom": _optional_instant(completeness.provisional_from),
        "fetchedAt": _optional_instant(completeness.fetched_at),
        **({"asOf": format_instant(as_of)} if as_of is not None else {}),
        "columns": rows.schema.names,
    }
    return _encode(document, rows, completeness)


class DeliveryMode(StrEnum):
    """How the figures of a live report came here."""

    query = "query"
    push = "push"
    polling = "polling"


@dataclass(frozen=True)
class LiveDelivery:
    """How the figures of a live report came here.

    Attributes:
        mode: ``query``: asked for when a reader wanted them. ``push``: the vendor reports each change. ``polling``: asked for
            because the vendor no longer does.
        since: Since when, of push and polling.
        problem: Why the vendor no longer reports changes.
    """

    mode: DeliveryMode = DeliveryMode.query
    since: datetime | None = None
    problem: str | None = None


ASKED = LiveDelivery()


def render_live(
    name: str, rows: pa.Table, observed_at: datetime, fresh_until: datetime, delivery: LiveDelivery = ASKED
) -> Answer:
    """Render the answer of a live report. Nothing of it is final, and it has no interval.

    Args:
        name: The report's name.
        rows: The rows.
        observed_at: The oldest moment at which the vendor was asked for one of them.
        fresh_until: When the figures are too old.
        delivery: How they came here.
    """
    document = {
        "report": name,
        "observedAt": format_instant(observed_at),
        "freshUntil": format_instant(fresh_until),
        "delivery": {
            "mode": delivery.mode,
            "since": _optional_instant(delivery.since),
            "problem": delivery.problem,
        },
        "columns": rows.schema.names,
    }
    return _encode(document, rows, Completeness(observed_at, observed_at, observed_at, fresh_until))


def render_document(document: Mapping[str, object], completeness: Completeness) -> Answer:
    """Render what a vendor answered of the present, in its own form."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', completeness)


def replace_rows(answer: Answer, rows: pa.Table, head: Mapping[str, Any] = MappingProxyType({})) -> Answer:
    """Return an answer with other rows or columns. Its ETag is another one.

    Args:
        answer: The answer.
        rows: Its new rows.
        head: What else its JSON says.
    """
    document = describe_answer(answer.body) | dict(head) | {"columns": rows.schema.names}
    return _encode(document, rows, answer.completeness)


def _encode(document: Mapping[str, Any], rows: pa.Table, completeness: Completeness) -> Answer:
    head = json.dumps(document, separators=(",", ":")).encode()
    body = b"".join((head[:-1], b',"rows":', rows_as_json(rows), b"}"))
    return Answer(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', completeness, rows)


def read_rows(body: bytes, columns: Sequence[Column]) -> pa.Table:
    """Return the rows of an answer's JSON, with the types of the report's columns."""
    head = describe_answer(body)
    values_by_row: list[list[Any]] = json.loads(body)["rows"]
    present = set(head["columns"])
    schema = pa.schema([each for each in to_arrow_schema(columns) if each.name in present])
    by_column = list(zip(*values_by_row, strict=True)) or [()] * len(head["columns"])
    arrays: dict[str, pa.Array[Any]] = {}
    for name, values in zip(head["columns"], by_column, strict=True):
        kind = schema.field(name).type
        typed = (
            [datetime.fromisoformat(value) if value else None for value in values]
            if pa.types.is_timestamp(kind)
            else list(values)
        )
        arrays[name] = pa.array(typed, kind)
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def describe_answer(body: bytes) -> dict[str, Any]:
    """Return everything of an answer's JSON but its rows."""
    return json.loads(body.partition(b',"rows":')[0] + b"}")


def _optional_instant(instant: datetime | None) -> str | None:
    return format_instant(instant) if instant else None
