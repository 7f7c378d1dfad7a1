"""Convert intervals for PostgreSQL: multiranges in, JSON out, because the Arrow driver has no range types."""

from __future__ import annotations

import json
from collections.abc import Iterable

from psycopg.sql import SQL, Composable, Literal

from cache_pipeline.query.interval import Interval, IntervalSet, parse_instant

_ISO = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""


def multirange(intervals: Iterable[Interval]) -> Composable:
    """Return intervals as a `tstzmultirange` literal."""
    bounds = ",".join(f"[{part.start.isoformat()},{part.end.isoformat()})" for part in intervals)
    return SQL("{}::tstzmultirange").format(Literal("{" + bounds + "}"))


def text_array(values: Iterable[str]) -> Composable:
    """Return texts as a `text[]` literal."""
    return SQL("{}::text[]").format(Literal(list(values)))


def instant_as_text(column: Composable) -> Composable:
    """Return an SQL expression for an instant as text in UTC, in the form that `parse_instant` reads."""
    return SQL("to_char({} AT TIME ZONE 'UTC', " + _ISO + ")").format(column)


def bounds_as_json(column: Composable) -> Composable:
    """Return an SQL expression for the bounds of a multirange as a JSON array of pairs."""
    return SQL(
        "(SELECT coalesce(json_agg(json_build_array({lower}, {upper})), '[]') FROM unnest({column}) AS r)"
    ).format(lower=instant_as_text(SQL("lower(r)")), upper=instant_as_text(SQL("upper(r)")), column=column)


def intervals_of(bounds: str | Iterable[tuple[str, str]]) -> IntervalSet:
    """Return the intervals of such JSON, given as text or already parsed."""
    pairs: Iterable[tuple[str, str]] = json.loads(bounds) if isinstance(bounds, str) else bounds
    return IntervalSet(Interval(parse_instant(start), parse_instant(end)) for start, end in pairs)
