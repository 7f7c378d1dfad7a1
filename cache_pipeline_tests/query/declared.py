"""A declaration to vary."""

from typing import Any

from cache_pipeline.query.report import Report

FIELDS: dict[str, Any] = {
    "report": "queue_hour",
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


def declared(**changes: Any) -> Report:
    """The declaration with some fields changed; None leaves a field out."""
    return Report.model_validate({name: value for name, value in (FIELDS | changes).items() if value is not None})
