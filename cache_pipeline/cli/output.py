"""The formats of ``cache-pipeline query``: a table for people, text for spreadsheets and pipes, files for data tools."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from cache_pipeline.errors import CommandError

if TYPE_CHECKING:
    import pyarrow as pa

    from cache_pipeline.query.schema import Column

_BOM = "\ufeff"
_INSTANTS = ("interval_start", "interval_end")


class OutputFormat(StrEnum):
    """A format, by its name and by the suffix of its files."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"

    @property
    def is_binary(self) -> bool:
        """Whether a terminal cannot show it."""
        return self in (OutputFormat.parquet, OutputFormat.arrow)


@dataclass(frozen=True)
class CsvOptions:
    """How CSV is written for people who open it in a spreadsheet.

    Attributes:
        local_time: Times are written as the clock shows them in the report's time zone, without an offset.
        bom: A byte order mark precedes the text, by which Excel recognises UTF-8.
        whole_numbers: Whole figures are written without a decimal point.
        safe_text: Texts that a spreadsheet would run as formulas get a leading apostrophe.
    """

    local_time: bool = False
    bom: bool = False
    whole_numbers: bool = False
    safe_text: bool = False


def choose_format(name: str | None, path: Path | None) -> OutputFormat:
    """Return the format that is asked for; by default that of the file's suffix, or a table on a terminal, else JSON.

    Raises:
        CommandError: The suffix names no format, or a terminal cannot show it.
    """
    if name is not None:
        chosen = OutputFormat(name)
    elif path is not None:
        suffix = path.suffix.removeprefix(".").lower()
        if suffix not in list(OutputFormat):
            raise CommandError(f"{path} has no suffix that names a format: add --format {'|'.join(OutputFormat)}")
        chosen = OutputFormat(suffix)
    else:
        chosen = OutputFormat.table if sys.stdout.isatty() else OutputFormat.json
    if chosen.is_binary and path is None and sys.stdout.isatty():
        raise CommandError(f"a terminal cannot show {chosen}: add -o FILE, or redirect the output")
    return chosen


def render_text(output_format: OutputFormat, document: Mapping[str, Any], options: CsvOptions, *, indent: bool) -> str:
    """Return an answer as CSV, JSON or lines of JSON.

    Args:
        output_format: One of these three.
        document: The answer as the API sends it.
        options: For CSV.
        indent: Whether to indent JSON, for a terminal.
    """
    if output_format is OutputFormat.csv:
        return _render_csv(document, options)
    if output_format is OutputFormat.jsonl:
        rows = (dict(zip(document["columns"], row, strict=True)) for row in document["rows"])
        return "".join(f"{_compact(row)}\n" for row in rows)
    return f"{json.dumps(document, indent=1) if indent else _compact(document)}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def render_binary(
    output_format: OutputFormat, body: bytes, columns: Sequence[Column], rows: pa.Table | None = None
) -> bytes:
    """Return an answer as Parquet or as an Arrow stream, exactly as the API sends it."""
    from cache_pipeline.api.answer_body import render_body
    from cache_pipeline.api.negotiation import MediaFormat

    return b"".join(render_body(MediaFormat[output_format.name], body, columns, rows))


def _render_csv(document: Mapping[str, Any], options: CsvOptions) -> str:
    # A live report has no time zone, and no times but the moment in which it was observed.
    columns, zone = document["columns"], ZoneInfo(document.get("timeZone", "UTC"))
    instants = {index for index, name in enumerate(columns) if name in _INSTANTS} if options.local_time else set[int]()
    text = io.StringIO()
    text.write(_BOM if options.bom else "")
    writer = csv.writer(text)
    disarm = _disarm if options.safe_text else _unchanged
    writer.writerow(map(disarm, columns))
    for row in document["rows"]:
        writer.writerow(
            _local(value, zone) if index in instants else disarm(_number(value) if options.whole_numbers else value)
            for index, value in enumerate(row)
        )
    return text.getvalue()


def _local(instant: str | None, zone: ZoneInfo) -> str | None:
    if instant is None:
        return None
    return datetime.fromisoformat(instant).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def _disarm(value: object) -> object:
    from cache_pipeline.storage.rendering import disarm_formula

    return disarm_formula(value) if isinstance(value, str) else value


def _unchanged(value: object) -> object:
    return value


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
