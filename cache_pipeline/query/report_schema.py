"""Build the JSON Schema of a report declaration, with which editors complete and check ``reports/*.yaml``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import FetchOptions, FreshnessOptions, Report

_PERIODS = ["PT15M", "PT30M", "PT1H", "P1D", "P1W", "P1M"]

# Editors offer examples as completions. Which other periods are valid is checked when the declaration is read.
_REPORT_EXAMPLES: Mapping[str, list[Any]] = {
    "granularity": _PERIODS[:-1],
    "time_zone": ["UTC", "Europe/Berlin", "America/New_York"],
    "owners": [["team:workforce"]],
}
_GROUP_EXAMPLES: Mapping[str, Mapping[str, list[Any]]] = {
    FetchOptions.__name__: {"max_query_interval": _PERIODS},
    FreshnessOptions.__name__: {"finality_delay": ["PT15M", "PT1H"]},
}


def report_json_schema(
    platforms: Iterable[str], rows: Iterable[str] = (), live_query_types: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one declaration.

    Args:
        platforms: The names of vendors that it may use.
        rows: The kinds of single rows that vendors have, offered as completions.
        live_query_types: The query types by which the declaration is that of a live report.
    """
    schema, live = Report.model_json_schema(), LiveReport.model_json_schema()
    _add_examples(schema, _REPORT_EXAMPLES)
    for group, examples in _GROUP_EXAMPLES.items():
        _add_examples(schema["$defs"][group], examples)
    schema["properties"]["rows"]["examples"] = list(rows)
    for each in (schema, live):
        each["properties"]["platform"]["enum"] = sorted(platforms)
    definitions = schema.pop("$defs") | live.pop("$defs")
    is_live = {"properties": {"query_type": {"enum": sorted(live_query_types)}}, "required": ["query_type"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cache_pipeline report",
        "description": "One declared report: it defines assets, checks, a schedule, an API endpoint and a data set. A live report shows "
        "the present, and is an API endpoint alone.",
        "type": "object",
        "if": is_live,
        "then": {"$ref": "#/$defs/LiveReport"},
        "else": {"$ref": "#/$defs/Report"},
        "$defs": {**definitions, "LiveReport": live, "Report": schema},
    }


def report_json_schema_text(
    platforms: Iterable[str], rows: Iterable[str] = (), live_query_types: Iterable[str] = ()
) -> str:
    """Return the JSON Schema as it is written to ``reports/report.schema.json``."""
    return json.dumps(report_json_schema(platforms, rows, live_query_types), indent=2, ensure_ascii=False) + "\n"


def _add_examples(schema: dict[str, Any], examples: Mapping[str, list[Any]]) -> None:
    for name, values in examples.items():
        schema["properties"][name]["examples"] = values
