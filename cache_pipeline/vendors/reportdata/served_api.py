"""The guide's own API (G1 to G3), answered from stored rows. The guide has no form for errors; theirs is that of its vendor's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.schema import to_snake_case
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.vendors.reportdata.query_payload import read_guide
from cache_pipeline.vendors.served import (
    ErrorFacts,
    JobFacts,
    JobPaths,
    ServedApi,
    ServedQuery,
    ServedRows,
    decode_cursor,
    encode_cursor,
    format_instant,
)

_PREFIX = "/api/v2/analytics/reportdata/"
_QUERY = f"{_PREFIX}query"
_DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 500, 1000
_STATUSES: Mapping[JobState, str] = {
    JobState.queued: "queued",
    JobState.running: "processing",
    JobState.done: "completed",
    JobState.failed: "failed",
    JobState.cancelled: "failed",
}


def read_query(body: object) -> ServedQuery:
    """Read the body of a submit.

    Raises:
        InvalidQuery: A field is wrong.
    """
    return ServedQuery((read_guide(body),), _render, delivery="async")


def _render(served: ServedRows) -> Mapping[str, object]:
    """Return rows with the contract's names: dimensions without a value and rows without a figure are left out."""
    dimensions = {name: to_snake_case(name) for name in served.report.group_by}
    metrics = {name: to_snake_case(name) for name in served.report.metrics}
    rows = [
        {
            "intervalStart": format_instant(row["interval_start"]),
            "intervalEnd": format_instant(row["interval_end"]),
            **{name: row[column] for name, column in dimensions.items() if row[column] is not None},
            **{name: row[column] for name, column in metrics.items()},
        }
        for row in served.rows.to_pylist()
        if any(row[column] for column in metrics.values())
    ]
    return {"rows": rows, "dataAvailabilityDate": format_instant(served.complete_through)}


def _describe(facts: JobFacts) -> Mapping[str, object]:
    status: dict[str, object] = {
        "id": facts.id,
        "status": _STATUSES[facts.state],
        "percentComplete": int(facts.percent),
        "createdTime": format_instant(facts.submitted_at),
    }
    if facts.state is JobState.done:
        status["resultUrl"] = f"{_QUERY}/{facts.id}/results"
    if facts.error is not None:
        status["errorMessage"] = facts.error
    return status


def _accept(facts: JobFacts) -> tuple[int, Mapping[str, object]]:
    """Return what a submit is answered with: always a query that is queued, as clients expect (G1)."""
    created = format_instant(facts.submitted_at)
    return 200, {"id": facts.id, "status": "queued", "percentComplete": 0, "createdTime": created}


def _page(
    facts: JobFacts, answer: Mapping[str, Any], _body: Mapping[str, Any], parameters: Mapping[str, str]
) -> tuple[Mapping[str, object], bool]:
    rows, start = answer["rows"], decode_cursor(parameters.get("cursor"))
    end = start + _page_size(parameters.get("pageSize"))
    page: dict[str, object] = {**answer, "id": facts.id, "rows": rows[start:end]}
    if end >= len(rows):
        return page, True
    return {**page, "cursor": encode_cursor(end)}, False


def _page_size(text: str | None) -> int:
    size = int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else 0
    if text is not None and not 1 <= size <= _MAX_PAGE_SIZE:
        raise InvalidQuery("pageSize", f"is not a whole number from 1 to {_MAX_PAGE_SIZE}")
    return size or _DEFAULT_PAGE_SIZE


def describe_error(facts: ErrorFacts) -> tuple[int, Mapping[str, object]]:
    """Return an error with its status, a code for programs, and the id of the request."""
    status = 400 if facts.status == 422 else facts.status
    code = facts.kind.replace("-", ".")
    return status, {"message": facts.detail, "code": code, "status": status, "contextId": facts.correlation_id}


SERVED_API = ServedApi(
    vendor="reportdata",
    prefix=_PREFIX,
    login_paths=("/oauth/token",),
    queries=(),
    jobs=(
        JobPaths(
            submit=f"{_QUERY}/async",
            status=f"{_QUERY}/{{job_id}}",
            results=f"{_QUERY}/{{job_id}}/results",
            read=read_query,
            accepted=_accept,
            describe=_describe,
            page=_page,
            has_delete=False,
        ),
    ),
    shared_jobs=(),
    observations=(),
    listings=(),
    unserved=(),
    correlation_header="ININ-Correlation-Id",
    describe_error=describe_error,
)
