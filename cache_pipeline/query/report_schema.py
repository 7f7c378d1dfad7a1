"""The JSON Schema of a report declaration, by which editors complete and check ``reports/*.yaml`` as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cache_pipeline.query.report import Report

_PERIODS = ["PT15M", "PT30M", "PT1H", "P1D", "P1W", "P1M"]
# Editors show examples as completions; what else is a period, the reading of the declaration says.
_HINTS: dict[str, dict[str, Any]] = {
    "granularity": {"examples": _PERIODS},
    "chunk": {"examples": _PERIODS},
    "time_zone": {"examples": ["UTC", "Europe/Berlin", "America/New_York"]},
    "settle": {"examples": ["PT15M", "PT1H"]},
    "owners": {"examples": [["team:workforce"]]},
}


def report_json_schema(platforms: Iterable[str]) -> dict[str, Any]:
    """A JSON Schema (2020-12) of one declaration; ``platforms`` are the names that it may ask."""
    schema = Report.model_json_schema()
    properties: dict[str, dict[str, Any]] = schema["properties"]
    for name, hint in _HINTS.items():
        properties[name].update(hint)
    properties["platform"]["enum"] = sorted(platforms)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "cache_pipeline report",
        "description": "One declared report: it gives assets, checks, a schedule, an API endpoint and a data set.",
    }


def report_json_schema_text(platforms: Iterable[str]) -> str:
    """The same as it is written to ``reports/report.schema.json``."""
    return json.dumps(report_json_schema(platforms), indent=2, ensure_ascii=False) + "\n"
