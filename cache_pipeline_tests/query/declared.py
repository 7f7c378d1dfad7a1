"""Report declarations for tests, built from flat keyword fields."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from cache_pipeline.query.report import FetchOptions, FreshnessOptions, PublishOptions, Report
from cache_pipeline.vendors.declaration_rules import use_row_keys

FIELDS: dict[str, Any] = {
    "name": "queue_hour",
    "description": "Offered and answered by queue, by hour",
    "platform": "reportdata",
    "query_type": "queue-performance",
    "granularity": "PT1H",
    "time_zone": "Europe/Berlin",
    "group_by": ["queueId", "mediaType"],
    "metrics": ["offered", "answered"],
    "volume_metric": "offered",
    "partition": "day",
    "start": "2026-01-01",
    "expected_groups": 24,
}
_GROUPS: Mapping[str, type[BaseModel]] = {
    "fetch": FetchOptions,
    "freshness": FreshnessOptions,
    "publish": PublishOptions,
}


def group_of(field: str) -> str | None:
    """Return the group that a field of a declaration belongs to; None for a field of the top level."""
    return next((group for group, model in _GROUPS.items() if field in model.model_fields), None)


def grouped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a declaration whose flat fields are put into their groups."""
    declaration: dict[str, Any] = {}
    for name, value in fields.items():
        group = group_of(name)
        if group is None:
            declaration[name] = value
        else:
            declaration.setdefault(group, {})[name] = value
    return declaration


def declared(**changes: Any) -> Report:
    """Return a report with some flat fields changed; None leaves a field out."""
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    return use_row_keys(Report.model_validate(grouped(fields)))


def with_changes(report: Report, **changes: Any) -> Report:
    """Return a copy of the report with some flat fields changed. The values are not validated."""
    update = {
        name: getattr(report, name).model_copy(update=value) if name in _GROUPS else value
        for name, value in grouped(changes).items()
    }
    return report.model_copy(update=update)
