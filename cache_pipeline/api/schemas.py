"""Request and response bodies of the HTTP API, as OpenAPI documents them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from cache_pipeline.query.ad_hoc import PROPOSAL_REQUESTS, propose_declaration
from cache_pipeline.service.status import DayState, ReportStatus
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesInfo
from cache_pipeline.storage.ports.jobs import ApiJob, JobState
from cache_pipeline.upstream.quota import ClientState

_EXAMPLE_INTERVAL = "2026-11-16T00:00:00Z/2026-11-17T00:00:00Z"
_EXAMPLE_JOB = "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"


class _Schema(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class FieldError(_Schema):
    """One thing that is wrong with a request."""

    field: str = Field(description="The field: body.interval, query.interval, …")
    detail: str = Field(description="What is wrong and how to fix it")


class ProblemView(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:cache-pipeline:problem:unknown-report",
                    "title": "Unknown report",
                    "status": 404,
                    "detail": "there is no report 'queue_daily'; declared reports: queue_day, queue_interval",
                }
            ]
        }
    )

    type: str = Field(description="Stable identifier, for programs")
    title: str = Field(description="The type in words")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What is wrong and how to fix it, for people")
    errors: list[FieldError] | None = Field(None, description="One entry per mistake, where there are several")


class ReportAnswerBody(_Schema):
    """A finished answer: column names once, then rows as lists."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "report": "queue_day",
                    "interval": _EXAMPLE_INTERVAL,
                    "granularity": "P1D",
                    "timeZone": "Europe/Berlin",
                    "completeThrough": "2026-11-17T00:00:00Z",
                    "provisionalFrom": None,
                    "fetchedAt": None,
                    "columns": ["interval_start", "interval_end", "queue_id", "offered"],
                    "rows": [["2026-11-16T00:00:00Z", "2026-11-17T00:00:00Z", "q-1", 412]],
                }
            ]
        },
    )

    report: str
    interval: str = Field(
        description="The interval of the answer in UTC: the part of the requested interval that has begun"
    )
    granularity: str
    time_zone: str
    complete_through: str = Field(description="Every bucket that ends by this instant is final")
    provisional_from: str | None = Field(
        description="Start of the first bucket that may still change; null if all are final"
    )
    fetched_at: str | None = Field(
        description="When the oldest provisional figures were fetched; null if all are final"
    )
    as_of: str | None = Field(None, description="When the figures were known, if an earlier instant was asked for")
    columns: list[str]
    rows: list[list[Any]]


class JobLinks(_Schema):
    """Links of a job."""

    self: str
    events: str = Field(description="Path of its server-sent progress events")
    result: str | None = Field(
        description="Path of the answer, once the job is done; null for a query at a vendor's own path, which is sent again"
    )


class Chunks(_Schema):
    """Queries to the vendor."""

    done: int = Field(ge=0)
    total: int | None = Field(ge=0, description="Null until known; it grows when chunks are split")


class JobView(_Schema):
    """A job: a query that stored data could not answer, and its progress."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {
                    "id": _EXAMPLE_JOB,
                    "state": "running",
                    "percent": 42.0,
                    "chunks": {"done": 3, "total": 7},
                    "position": None,
                    "report": "queue_interval",
                    "interval": _EXAMPLE_INTERVAL,
                    "request": {"interval": _EXAMPLE_INTERVAL},
                    "retryAfterSeconds": 4,
                    "createdAt": "2026-11-17T08:00:00Z",
                    "startedAt": "2026-11-17T08:00:01Z",
                    "finishedAt": None,
                    "expiresAt": None,
                    "problem": None,
                    "links": {
                        "self": f"/v1/jobs/{_EXAMPLE_JOB}",
                        "events": f"/v1/jobs/{_EXAMPLE_JOB}/events",
                        "result": None,
                    },
                }
            ]
        },
    )

    id: UUID
    state: JobState
    percent: float = Field(ge=0, le=100)
    chunks: Chunks
    position: int | None = Field(ge=1, description="Position in the queue, 1 being next; only while it is queued")
    report: str
    interval: str
    request: dict[str, Any] = Field(
        description="The query in canonical form: its interval, and everything that differs from the declaration"
    )
    retry_after_seconds: int | None = Field(
        ge=1, description="Estimated seconds until it is done; only while it is queued or running"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When a finished job is deleted")
    problem: ProblemView | None = Field(description="Why the job failed")
    links: JobLinks


_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=200)]


#: What the parameter ``names`` does.
ALIGN_DESCRIPTION = "buckets: widen an interval that cuts a bucket to whole buckets, instead of refusing it"
CSV_DESCRIPTION = (
    "safe: in CSV, a text that a spreadsheet would run as a formula (=, +, -, @ …) gets a leading apostrophe"
)
NAMES_DESCRIPTION = (
    "Add a column with names after each column of ids, such as queue_name after queue_id: current (or true) names, or those "
    "at the time of the figures (then). An id without a name is its own name."
)


AS_OF_DESCRIPTION = "Answer with final figures as they were known at this instant (ISO 8601 with an offset), if the report declares time_travel"
AS_OF_EXAMPLE = "2026-11-17T08:00:00Z"
LIVE_DESCRIPTION = (
    "true: add the rows of the live report that the report declares, and a column `state` that says of each row whether it is final, "
    "provisional or live"
)
MEASURES_DESCRIPTION = (
    "Add a column for each of these measures of the report, such as average_handle_time, computed from the sums of each row of "
    "the answer"
)


class QueryBody(_Schema):
    """A query for a report."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        json_schema_extra={"examples": [{"interval": _EXAMPLE_INTERVAL}]},
    )

    interval: Annotated[str, Field(min_length=3, max_length=100)] | None = Field(
        None,
        description="start/end, half-open, ISO 8601; instants without an offset are in the time zone of the query. Required, but for "
        "live reports, which have none",
        examples=[_EXAMPLE_INTERVAL, "2026-11-16/2026-11-17"],
    )
    group_by: _Names | None = Field(None, description="A subset of the report's dimensions; an empty list for totals")
    metrics: _Names | None = Field(None, description="A subset of the report's metrics")
    granularity: str | None = Field(
        None, max_length=50, description="A longer bucket size, ISO 8601", examples=["PT1H"]
    )
    time_zone: str | None = Field(None, max_length=50, description="IANA time zone of days and hours")
    filters: dict[str, Any] | None = Field(
        None,
        description="Which rows to include: `type` (and, or, not), `predicates` (dimension, operator in or notIn, values), "
        "and nested `clauses` of the same form",
        examples=[{"type": "and", "predicates": [{"dimension": "queue", "operator": "in", "values": ["q-1"]}]}],
    )
    names: Literal["current", "then", "true"] | None = Field(None, description=NAMES_DESCRIPTION)
    csv: Literal["safe"] | None = Field(None, description=CSV_DESCRIPTION)
    align: Literal["buckets"] | None = Field(None, description=ALIGN_DESCRIPTION)
    measures: _Names | None = Field(None, description=MEASURES_DESCRIPTION)
    as_of: str | None = Field(None, max_length=50, description=AS_OF_DESCRIPTION, examples=[AS_OF_EXAMPLE])
    live: bool | None = Field(None, description=LIVE_DESCRIPTION)


class MeasureInfo(_Schema):
    """A measure of a report."""

    name: str
    label: str = Field(description="Its name for people")
    formula: str = Field(description="A sum of columns, or one divided by another; null if the divisor is zero")
    kind: str = Field(description="count, share (0 to 1), duration (milliseconds) or number")
    description: str


class ReportInfo(_Schema):
    """A declared report."""

    name: str
    description: str
    platform: str
    granularity: str
    time_zone: str
    group_by: list[str]
    metrics: list[str]
    measures: list[MeasureInfo]
    live_report: str | None = Field(description="The live report that `live=true` adds; null for none")
    start: str = Field(description="First day that can be queried")
    freshness_seconds: int = Field(description="How old provisional figures may become before they are refetched")
    href: str = Field(description="Path to query the report")


class LiveReportInfo(_Schema):
    """A declared live report, which shows the present."""

    name: str
    description: str
    platform: str
    query_type: str
    group_by: list[str]
    metrics: list[str]
    freshness_seconds: int = Field(description="How old its figures may become")
    href: str = Field(description="Path to query the report, without an interval")


class ReportList(_Schema):
    """The reports that a key may query."""

    reports: list[ReportInfo]
    live_reports: list[LiveReportInfo]


class BoardInfo(_Schema):
    """A live report that the live page shows."""

    name: str
    description: str
    events: str = Field(description="Path of its server-sent events")
    thresholds: dict[str, dict[str, float]] = Field(
        description="From which values figures are marked, by figure: `warn`, `alarm`"
    )
    has_service_level: bool = Field(description="Whether rows have the service level of the day so far")


class BoardList(_Schema):
    """The boards that a caller may see."""

    boards: list[BoardInfo]


class ClientQuotaView(_Schema):
    """The quota of one OAuth client, shared by all processes and machines."""

    account: str
    client: str
    state: ClientState
    limit: int = Field(description="Requests that the vendor accepts per window")
    window_seconds: float
    used: int
    in_flight: int
    remaining: dict[str, int] = Field(description="Requests that each lane may send now")
    throttled_for_seconds: float
    granted_total: int
    rejected_total: int = Field(description="Requests that the vendor answered with 429")


class LimitView(_Schema):
    """A limit that several clients share, or that the vendor has named for one."""

    account: str
    name: str = Field(description="The vendor's name of the limit; `declared` if the settings declare it")
    counts: str = Field(description="What counts: `organisation`, `jobs`, the id of a client, or an endpoint")
    limit: int
    window_seconds: float | None
    used: int


class MonthView(_Schema):
    """The requests that an account's contract allots to this month, in UTC."""

    account: str
    allotted: int
    used: int
    expected: int = Field(description="Requests of the whole month, if the present pace stays")
    runs_out_at: datetime | None = Field(description="When they are used up, if the present pace stays")


class QuotaView(_Schema):
    """The shared quota."""

    clients: list[ClientQuotaView]
    limits: list[LimitView]
    months: list[MonthView]


class Dependency(_Schema):
    """A service that the API depends on."""

    name: str
    ok: bool
    detail: str | None = None


class Readiness(_Schema):
    """Whether the API can serve answers, and which dependencies are available.

    The vendor is not a dependency, because stored answers are served without it.
    """

    ok: bool
    dependencies: list[Dependency]


class ReportStatusView(_Schema):
    """What history holds of a report."""

    report: str
    platform: str
    complete_through: datetime | None = Field(description="End of the last final bucket")
    fetched_at: datetime | None = Field(
        description="When the oldest provisional figure was fetched; null if all are final"
    )
    freshness_seconds: float = Field(description="How old figures may become that are younger than the finality delay")
    stale: bool = Field(description="Whether provisional figures are due to be fetched again")
    gaps: list[str] = Field(description="Intervals that have begun and are not stored")
    days: dict[date, DayState] = Field(description="The state of each local day")


class FailedJobView(_Schema):
    """A job that failed."""

    report: str
    finished_at: datetime
    type: str
    detail: str = Field(description="What is wrong and how to fix it")


class AdHocSeriesView(_Schema):
    """The rows of queries that no declared report holds."""

    name: str
    query_type: str
    granularity: str
    group_by: list[str]
    metrics: list[str]
    requests: int = Field(description="How often they were asked for")
    last_requested_at: datetime
    is_asked_often: bool = Field(description="Whether a declaration is worth while: it fetches the figures in advance")
    declaration: dict[str, Any] = Field(description="The declaration of a report that would hold them")


class TodayView(_Schema):
    """Requests since 00:00 UTC."""

    answered: int = Field(description="Requests to this API that were answered with figures")
    by_tier: dict[str, int] = Field(description="The same by the tier that answered")
    vendor_requests: int = Field(description="Requests to the vendor behind the answers that were stored")
    vendor_requests_by_report: dict[str, int]


class StatusView(_Schema):
    """The state of the deployment. A part that cannot be read is null, and `unavailable` says why."""

    generated_at: datetime
    reports: list[ReportStatusView] | None
    today: TodayView | None
    quota: QuotaView | None
    queries: dict[str, int] | None = Field(description="Open upstream queries by state")
    jobs: dict[str, int] | None = Field(description="Open jobs, and jobs that finished within a day, by state")
    oldest_job_seconds: float | None = Field(description="How long the oldest waiting job has waited")
    workers: dict[str, int] | None = Field(description="Workers alive, and workers lost within 15 minutes")
    failed_jobs: list[FailedJobView] | None = Field(description="The last jobs of the key's tenant that failed")
    ad_hoc_series: list[AdHocSeriesView] | None = Field(
        description="Queries of the key's tenant that no declared report holds, the most requested first"
    )
    unavailable: dict[str, str]


class SessionBody(_Schema):
    """An API key, to be kept in a cookie of the browser session."""

    key: str = Field(max_length=200)


def report_status_view(status: ReportStatus) -> ReportStatusView:
    """Return the response body of a report's status."""
    return ReportStatusView(
        report=status.report,
        platform=status.platform,
        complete_through=status.complete_through,
        fetched_at=status.fetched_at,
        freshness_seconds=status.freshness.total_seconds(),
        stale=status.is_stale,
        gaps=[str(gap) for gap in status.gaps],
        days=dict(status.days),
    )


def ad_hoc_series_view(series: AdHocSeriesInfo) -> AdHocSeriesView:
    """Return the response body of an ad hoc series."""
    return AdHocSeriesView(
        name=series.name,
        query_type=series.declaration["query_type"],
        granularity=series.declaration["granularity"],
        group_by=series.declaration["group_by"],
        metrics=sorted(series.metrics),
        requests=series.requests,
        last_requested_at=series.last_requested_at,
        is_asked_often=series.requests >= PROPOSAL_REQUESTS,
        declaration=propose_declaration(series.declaration, series.metrics, series.created_at),
    )


def job_view(job: ApiJob, *, position: int | None, retry_after: int | None, result: str | None) -> JobView:
    """Return the response body of a job."""
    path = f"/v1/jobs/{job.id}"
    return JobView(
        id=job.id,
        state=job.state,
        percent=round(job.percent, 1),
        chunks=Chunks(done=job.chunks_done, total=job.chunks_total),
        position=position,
        report=job.report,
        interval=job.request["interval"],
        request=job.request,
        retry_after_seconds=retry_after,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        problem=ProblemView.model_validate(job.problem) if job.problem else None,
        links=JobLinks(self=path, events=f"{path}/events", result=result if job.state is JobState.done else None),
    )
