"""The part of Genesys Cloud's own API that is answered from stored rows: aggregate queries, at once or by job.

The vendor documents neither the order of groups nor that of metrics. Here groups come in the order in which they first
occur, and metrics in the order of the query; buckets are in time order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.payload import QueryPayload, read_names, read_object, read_required_text, read_text
from cache_pipeline.query.schema import Fold, fold_rows, to_snake_case
from cache_pipeline.query.zones import time_zone
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.vendors.genesys.aggregates import (
    AGGREGATES_PAGE_SIZE,
    EVENT_TIME_FAMILIES,
    PRESENCE_ID,
    SPLIT_DIMENSION,
    SPLIT_FAMILIES,
    SYSTEM_PRESENCE,
)
from cache_pipeline.vendors.genesys.metrics import (
    ORGANIZATION_PRESENCE,
    SERVICE_TARGET,
    TARGETED_METRICS,
    metric_columns,
    write_metrics,
)
from cache_pipeline.vendors.genesys.permissions import AGGREGATE_PERMISSIONS
from cache_pipeline.vendors.genesys.query_payload import find_dividing_period, find_whole_period, read_genesys
from cache_pipeline.vendors.genesys.served_details import SERVED_DETAILS
from cache_pipeline.vendors.genesys.served_listings import SERVED_LISTINGS
from cache_pipeline.vendors.genesys.served_observations import SERVED_OBSERVATIONS
from cache_pipeline.vendors.served import (
    ErrorFacts,
    JobFacts,
    JobPaths,
    QueryPath,
    ServedApi,
    ServedQuery,
    ServedRows,
    UnservedPaths,
    decode_cursor,
    encode_cursor,
    format_instant,
)

if TYPE_CHECKING:
    import pyarrow as pa

#: Families whose answers are served. The others are stored by event time, which is not the vendor's default.
_SERVED_FAMILIES = tuple(family for family in AGGREGATE_PERMISSIONS if family not in EVENT_TIME_FAMILIES)
_USERS, _USER = "users", "userId"
_PRESENCE_COLUMNS = (to_snake_case(PRESENCE_ID), to_snake_case(SYSTEM_PRESENCE))
_JOBS_REMEDY = "let CACHE_PIPELINE_API__DETAIL_JOBS=true have the vendor's own jobs answer"
_REMEDY = "query a declared report at /v1/reports/REPORT, or have the settings pass the path on to the vendor"
_UNSERVED = (
    UnservedPaths(
        "/api/v2/analytics/conversations/details",
        f"details of conversations are stored as rows, without participants, sessions and attributes: {_JOBS_REMEDY}, {_REMEDY}",
    ),
    UnservedPaths(
        "/api/v2/analytics/users/details",
        "details of users are stored by the bucket in which a presence or status began, so those that lasted from before an "
        f"interval are not known: {_JOBS_REMEDY}, {_REMEDY}",
    ),
    *(
        UnservedPaths(
            f"/api/v2/analytics/{family}/aggregates",
            f"aggregates of {family} are stored by the time of their events, which is not the vendor's default: {_REMEDY}",
        )
        for family in sorted(EVENT_TIME_FAMILIES)
    ),
)
_CODES: Mapping[int, str] = {
    400: "bad.request",
    401: "bad.credentials",
    403: "not.authorized",
    404: "not.found",
    405: "method.not.allowed",
    408: "request.timeout",
    413: "request.entity.too.large",
    415: "unsupported.media.type",
    429: "too.many.requests.retry.after",
    503: "service.unavailable",
    504: "request.timeout",
}
_INTERNAL = "internal.server.error"
_STATES: Mapping[JobState, str] = {
    JobState.queued: "QUEUED",
    JobState.running: "PENDING",
    JobState.done: "FULFILLED",
    JobState.failed: "FAILED",
    JobState.cancelled: "CANCELLED",
}


@dataclass(frozen=True)
class _Shape:
    """What an answer has to look like.

    Attributes:
        group_by: The dimensions of its groups.
        metrics: Its metrics.
        bucket: The one bucket of a query without granularity, into which all rows are merged; None for the rows' own.
    """

    group_by: tuple[str, ...]
    metrics: tuple[str, ...]
    bucket: Interval | None

    @property
    def has_presences(self) -> bool:
        """Whether its figures are by the organisation's own presences, which are rows of their own."""
        return ORGANIZATION_PRESENCE in self.metrics


def read_aggregate_query(family: str, body: object) -> ServedQuery:
    """Read the body of a synchronous aggregate query.

    Args:
        family: The family of aggregates, such as ``conversations``.
        body: The body, as the vendor documents it.

    Raises:
        QueryError: Stored rows cannot answer it, whatever is declared.
    """
    fields = dict(read_object(body, "body"))
    bucket = _merged_bucket(fields)
    if bucket is not None:
        fields["granularity"] = find_dividing_period(bucket, read_text(fields, "timeZone") or "UTC")
        if fields["granularity"] is None:
            raise InvalidQuery(
                "interval", f"{bucket} does not consist of whole quarters of an hour: ask for one that does"
            )
    payload = read_genesys(fields, family)
    shape = _Shape(_in_order(fields, "groupBy"), _in_order(fields, "metrics"), bucket)
    if family in SPLIT_FAMILIES and SPLIT_DIMENSION not in shape.group_by:
        shape = replace(shape, group_by=(*shape.group_by, SPLIT_DIMENSION))
    _check_mergeable(shape)
    if family == _USERS:
        _check_users(shape)
    payload = _with(payload, shape.group_by, payload.overrides.metrics or ())
    payloads = (payload,)
    if shape.has_presences:
        whole = (*shape.group_by, PRESENCE_ID, SYSTEM_PRESENCE)
        payloads = tuple(_with(payload, groups, shape.metrics) for groups in (whole, whole[:-1]))
    elif TARGETED_METRICS.intersection(shape.metrics) and SERVICE_TARGET not in shape.metrics:
        payloads = (_with(payload, shape.group_by, (*shape.metrics, SERVICE_TARGET)), payload)
    return ServedQuery(payloads, partial(_render, shape))


def _merged_bucket(fields: Mapping[str, object]) -> Interval | None:
    """Return the interval of a query that asks for a single bucket of no usual length."""
    if fields.get("granularity") is not None:
        return None
    zone = read_text(fields, "timeZone") or "UTC"
    text = read_required_text(fields, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z")
    interval = Interval.parse(text, time_zone(zone))
    return None if find_whole_period(interval, zone) else interval


def _check_mergeable(shape: _Shape) -> None:
    if shape.bucket is None:
        return
    fixed = dict.fromkeys(column.source for column in metric_columns(shape.metrics) if column.fold is Fold.none)
    if fixed:
        raise InvalidQuery(
            "granularity",
            f"is missing, and {', '.join(fixed)} cannot be added up over buckets: set a granularity, or leave the metric out",
        )


def _check_users(shape: _Shape) -> None:
    if set(shape.group_by) - {_USER}:
        raise InvalidQuery("groupBy", f"has more than {_USER}, which is all that users are grouped by: leave it out")
    if shape.has_presences and len(shape.metrics) > 1:
        raise InvalidQuery(
            "metrics", f"has {ORGANIZATION_PRESENCE} beside others, and they are stored apart: ask for it by itself"
        )


def _in_order(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    """Return the names of a list that was checked, in its order."""
    return tuple(dict.fromkeys(cast("list[str]", fields[name]))) if read_names(fields, name) else ()


def _with(payload: QueryPayload, group_by: Sequence[str], metrics: Sequence[str]) -> QueryPayload:
    overrides = replace(payload.overrides, group_by=tuple(sorted(set(group_by))), metrics=tuple(sorted(set(metrics))))
    return replace(payload, overrides=overrides)


def _render(shape: _Shape, served: ServedRows) -> Mapping[str, object]:
    """Return rows as the vendor's answer; what did not happen is left out."""
    rows = served.rows
    keys = [to_snake_case(name) for name in shape.group_by]
    presences = [name for name in _PRESENCE_COLUMNS if shape.has_presences and name in rows.schema.names]
    if shape.bucket is not None:
        rows = _merge(rows, [*keys, *presences], shape)
    columns: dict[str, list[Any]] = {name: rows.column(name).to_pylist() for name in rows.schema.names}
    measures = [name for name in columns if name not in (*keys, *presences, "interval_start", "interval_end")]
    groups: dict[tuple[str | None, ...], list[dict[str, Any]]] = {}
    for index in range(rows.num_rows):
        metrics = write_metrics(shape.metrics, {name: columns[name][index] for name in measures})
        if metrics:
            bucket = shape.bucket or Interval(columns["interval_start"][index], columns["interval_end"][index])
            group = tuple(columns[name][index] for name in keys)
            data = groups.setdefault(group, [])
            if not presences:
                data.append({"interval": _format_interval(bucket), "metrics": metrics})
                continue
            metrics = [{**entry, "qualifier": columns[_PRESENCE_COLUMNS[0]][index]} for entry in metrics]
            interval = _format_interval(bucket)
            if data and data[-1]["interval"] == interval:
                data[-1]["metrics"] += metrics
            else:
                data.append({"interval": interval, "metrics": metrics})
    return {
        **_presence_mappings(columns, presences),
        "results": [
            {
                "group": {name: value for name, value in zip(shape.group_by, group, strict=True) if value is not None},
                "data": data,
            }
            for group, data in groups.items()
        ],
    }


def _presence_mappings(columns: Mapping[str, Sequence[Any]], presences: Sequence[str]) -> Mapping[str, object]:
    """Return to which of the system's presences those of the rows belong; nothing where the rows do not say it."""
    if len(presences) < len(_PRESENCE_COLUMNS):
        return {}
    found: dict[str, set[str]] = {}
    for id_, system in zip(*(columns[name] for name in presences), strict=True):
        if system is not None:
            found.setdefault(system, set()).add(id_)
    return {"systemToOrganizationMappings": {system: sorted(ids) for system, ids in sorted(found.items())}}


def _merge(rows: pa.Table, keys: Sequence[str], shape: _Shape) -> pa.Table:
    names = set(rows.schema.names)
    folds = {column.name: column.fold for column in metric_columns((*shape.metrics, SERVICE_TARGET))}
    merged = fold_rows(rows, keys, {name: fold for name, fold in folds.items() if name in names})
    return merged.sort_by([(key, "ascending") for key in keys]) if keys else merged


def _format_interval(interval: Interval) -> str:
    return f"{format_instant(interval.start)}/{format_instant(interval.end)}"


def read_aggregate_job(family: str, body: object) -> ServedQuery:
    """Read the body of an asynchronous aggregate query, which may have the size of its pages."""
    _page_size(read_object(body, "body"))
    return read_aggregate_query(family, body)


def _page_size(body: Mapping[str, object]) -> int:
    size = body.get("pageSize")
    if size is None:
        return AGGREGATES_PAGE_SIZE
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= AGGREGATES_PAGE_SIZE:
        raise InvalidQuery("pageSize", f"is not a whole number from 1 to {AGGREGATES_PAGE_SIZE}")
    return size


def _accept_job(facts: JobFacts) -> tuple[int, Mapping[str, object]]:
    return 202, {"jobId": facts.id}


def _describe_job(facts: JobFacts) -> Mapping[str, object]:
    """Return a job as the vendor's ``AsyncQueryStatus``; fields without a value are absent."""
    status: dict[str, object] = {
        "state": _STATES[facts.state],
        "expirationDate": format_instant(facts.expires_at),
        "submissionDate": format_instant(facts.submitted_at),
    }
    if facts.finished_at is not None:
        status["completionDate"] = format_instant(facts.finished_at)
    if facts.error is not None:
        status["errorMessage"] = facts.error
    return status


def _page_of_job(
    _facts: JobFacts, answer: Mapping[str, Any], body: Mapping[str, Any], parameters: Mapping[str, str]
) -> tuple[Mapping[str, object], bool]:
    """Return some groups of an answer; all pages but the last have a cursor to the next."""
    results, size, start = answer["results"], _page_size(body), decode_cursor(parameters.get("cursor"))
    end = start + size
    page: dict[str, object] = {**answer, "results": results[start:end]}
    if end >= len(results):
        return page, True
    return {**page, "cursor": encode_cursor(end)}, False


def describe_error(facts: ErrorFacts) -> tuple[int, Mapping[str, object]]:
    """Return an error as the vendor's ``ErrorBody``. The vendor answers 400 to every query that it cannot read."""
    status = 400 if facts.status == 422 else facts.status
    message = facts.detail
    if status == 429:
        message = f"Rate limit exceeded the maximum. Retry the request in [{facts.retry_after or 1}] seconds"
    body = {
        "message": message,
        "code": _CODES.get(status, _INTERNAL if status >= 500 else "bad.request"),
        "status": status,
        "contextId": facts.correlation_id,
        "details": [],
        "errors": [],
    }
    return status, body


SERVED_API = ServedApi(
    vendor="genesys",
    prefix="/api/v2/",
    login_paths=("/oauth/token", "/login/oauth/token"),
    queries=tuple(
        QueryPath(f"/api/v2/analytics/{family}/aggregates/query", partial(read_aggregate_query, family))
        for family in _SERVED_FAMILIES
    ),
    jobs=tuple(
        JobPaths(
            submit=f"/api/v2/analytics/{family}/aggregates/jobs",
            status=f"/api/v2/analytics/{family}/aggregates/jobs/{{job_id}}",
            results=f"/api/v2/analytics/{family}/aggregates/jobs/{{job_id}}/results",
            read=partial(read_aggregate_job, family),
            accepted=_accept_job,
            describe=_describe_job,
            page=_page_of_job,
            has_delete=True,
        )
        for family in _SERVED_FAMILIES
    ),
    shared_jobs=SERVED_DETAILS,
    observations=SERVED_OBSERVATIONS,
    listings=SERVED_LISTINGS,
    unserved=_UNSERVED,
    correlation_header="ININ-Correlation-Id",
    describe_error=describe_error,
)
