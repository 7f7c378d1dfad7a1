"""What a caller asks for by headers: the form of an answer (Accept), and how long to wait for it (Prefer, RFC 7240)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cache_pipeline.api.problems import Problem
from cache_pipeline.query.schema import Column, arrow_schema

#: The longest that an answer is waited for in a request.
LONGEST_WAIT_SECONDS = 60.0


class MediaFormat(StrEnum):
    """A form that an answer can have, by its media type; the first is what is given where nobody minds."""

    json = "application/json"
    csv = "text/csv"
    arrow = "application/vnd.apache.arrow.stream"
    parquet = "application/vnd.apache.parquet"

    @property
    def content_type(self) -> str:
        """The media type as a header says it."""
        return "text/csv; charset=utf-8; header=present" if self is MediaFormat.csv else str(self)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _weight(ranges: list[tuple[str, float]], form: MediaFormat) -> float:
    """The most exact range that a form falls under decides."""
    whole = dict(ranges)
    kind = f"{form.partition('/')[0]}/*"
    return next((whole[name] for name in (str(form), kind, "*/*") if name in whole), 0.0)


def negotiate_format(accept: str | None) -> MediaFormat:
    """The form that an Accept header wants most.

    Raises:
        Problem: 406, none of ours is wanted.
    """
    if not accept or not accept.strip():
        return MediaFormat.json
    ranges: list[tuple[str, float]] = []
    for part in accept.split(","):
        media, *parameters = part.split(";")
        ranges.append((media.strip().lower(), _quality(parameters)))
    best = max(MediaFormat, key=lambda form: _weight(ranges, form))
    if _weight(ranges, best) <= 0:
        raise Problem("not-acceptable", 406, f"answers come as {', '.join(MediaFormat)}: name one of them in Accept")
    return best


@dataclass(frozen=True)
class Preference:
    """What a Prefer header says.

    Attributes:
        wait_seconds: how long the caller would rather wait than get a 202; 0 where it says nothing.
        applied: what to say that was kept to, or None.
    """

    wait_seconds: float
    applied: str | None


_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,9})\"?$", re.IGNORECASE)


def parse_prefer(prefer: str | None) -> Preference:
    """The preferences that we know; others are ignored, as the RFC wants it."""
    wait, asynchronous = 0.0, False
    for part in (prefer or "").split(","):
        token = part.partition(";")[0].strip()
        if found := _WAIT.match(token):
            wait = min(float(found[1]), LONGEST_WAIT_SECONDS)
        asynchronous = asynchronous or token.lower() == "respond-async"
    if wait:
        return Preference(wait, f"wait={wait:.0f}")
    return Preference(0.0, "respond-async" if asynchronous else None)


def wants_refresh(cache_control: str | None) -> bool:
    """Whether a request's Cache-Control would rather not have what is kept (RFC 9111, 5.2.1.4)."""
    return any(part.strip().lower() == "no-cache" for part in (cache_control or "").split(","))


def render_body(form: MediaFormat, body: bytes, columns: Sequence[Column]) -> bytes:
    """An answer's JSON in another form.

    Args:
        form: which.
        body: the JSON.
        columns: of the report, for the types of Arrow and Parquet.
    """
    if form is MediaFormat.json:
        return body
    document: dict[str, Any] = json.loads(body)
    if form is MediaFormat.csv:
        text = io.StringIO()
        # As RFC 4180 has it; None is an empty field.
        csv.writer(text).writerows([document["columns"], *document["rows"]])
        return text.getvalue().encode()
    table, sink = _table(document, columns), pa.BufferOutputStream()
    if form is MediaFormat.parquet:
        pq.write_table(table, sink, compression="zstd")
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(document: dict[str, Any], columns: Sequence[Column]) -> pa.Table:
    schema = arrow_schema([column for column in columns if column.name in document["columns"]])
    by_column = list(zip(*document["rows"], strict=True)) or [()] * len(document["columns"])
    arrays: dict[str, pa.Array[Any]] = {}
    for name, values in zip(document["columns"], by_column, strict=True):
        kind = schema.field(name).type
        plain = [datetime.fromisoformat(value) for value in values] if pa.types.is_timestamp(kind) else list(values)
        arrays[name] = pa.array(plain, kind)
    known = {
        name: str(document[name])
        for name in ("report", "interval", "granularity", "timeZone", "completeThrough", "provisionalFrom", "fetchedAt")
        if document.get(name) is not None
    }
    return pa.table([arrays[name] for name in schema.names], schema=schema.with_metadata(known))
