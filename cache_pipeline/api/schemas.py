"""What goes over the wire, as OpenAPI tells it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from cache_pipeline.api.jobs.job import ApiJob, JobState
from cache_pipeline.upstream.quota import ClientState

_EXAMPLE_INTERVAL = "2026-11-16T00:00:00Z/2026-11-17T00:00:00Z"
_EXAMPLE_JOB = "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class FieldError(_Wire):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where: body.interval, query.interval, …")
    detail: str = Field(description="What, and how to mend it")


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

    type: str = Field(description="Stable, for programs")
    title: str = Field(description="The type in words")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What is wrong and how to mend it, for people")
    errors: list[FieldError] | None = Field(None, description="Where several things are wrong")


class ReportAnswerBody(_Wire):
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
    interval: str = Field(description="What is answered, in UTC: the part of what was asked that has begun")
    granularity: str
    time_zone: str
    complete_through: str = Field(description="Every bucket that ends by then is final")
    provisional_from: str | None = Field(description="Start of the first bucket that may still change")
    fetched_at: str | None = Field(description="When the oldest provisional figures were fetched")
    columns: list[str]
    rows: list[list[Any]]


class JobLinks(_Wire):
    """Where to go from a job."""

    self: str
    events: str = Field(description="Server-sent events of its progress")
    result: str | None = Field(description="Where the answer is, once the job is done")


class Chunks(_Wire):
    """Queries to the vendor."""

    done: int = Field(ge=0)
    total: int | None = Field(ge=0, description="As far as is known; splitting adds to it")


class JobView(_Wire):
    """A job: a query that could not be answered from what is kept, and how far it has come."""

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
    position: int | None = Field(ge=1, description="In the queue, 1 being next; only while it is queued")
    report: str
    interval: str
    request: dict[str, Any] = Field(description="What is asked, in canonical form: what is otherwise than declared")
    retry_after_seconds: int | None = Field(ge=1, description="When to look again, by estimate; only while it is open")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When an ended job is forgotten")
    problem: ProblemView | None = Field(description="Why it failed")
    links: JobLinks


_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=200)]


class QueryBody(_Wire):
    """A question to a report."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        json_schema_extra={"examples": [{"interval": _EXAMPLE_INTERVAL}]},
    )

    interval: Annotated[
        str,
        Field(
            min_length=3,
            max_length=100,
            description="start/end, half-open, ISO 8601; ends without an offset are in the zone that is asked for",
            examples=[_EXAMPLE_INTERVAL, "2026-11-16/2026-11-17"],
        ),
    ]
    group_by: _Names | None = Field(None, description="Fewer dimensions; an empty list for totals")
    metrics: _Names | None = Field(None, description="Fewer metrics")
    granularity: str | None = Field(None, max_length=50, description="Longer buckets, ISO 8601", examples=["PT1H"])
    time_zone: str | None = Field(None, max_length=50, description="Whose days and hours are meant, by IANA name")
    filters: dict[str, Any] | None = Field(
        None,
        description="Rows to keep: `type` (and, or, not), `predicates` (dimension, operator in or notIn, values), and "
        "`clauses` of the same form",
        examples=[{"type": "and", "predicates": [{"dimension": "queueId", "operator": "in", "values": ["q-1"]}]}],
    )


class ReportInfo(_Wire):
    """A declared report."""

    report: str
    description: str
    platform: str
    granularity: str
    time_zone: str
    group_by: list[str]
    metrics: list[str]
    start: str = Field(description="First day that it can be asked for")
    freshness_seconds: int = Field(description="How old provisional figures may grow")
    href: str


class ReportList(_Wire):
    """The reports that a key may ask for."""

    reports: list[ReportInfo]


class ClientQuotaView(_Wire):
    """One OAuth client of the vendor, as all processes and machines share it."""

    platform: str
    client: str
    state: ClientState
    limit: int = Field(description="Requests that the vendor takes in a window")
    window_seconds: float
    used: int
    in_flight: int
    remaining: dict[str, int] = Field(description="Requests that each lane could send now")
    throttled_for_seconds: float
    granted_total: int
    rejected_total: int = Field(description="Answers of 429")


class QuotaView(_Wire):
    """The shared quota."""

    clients: list[ClientQuotaView]


class Dependency(_Wire):
    """One thing that the gateway stands on."""

    name: str
    ok: bool
    detail: str | None = None


class Readiness(_Wire):
    """Whether answers can be served, and what is away meanwhile. The vendor is not among it: what is kept is served without."""

    ok: bool
    dependencies: list[Dependency]


def job_view(job: ApiJob, *, position: int | None, retry_after: int | None, result: str) -> JobView:
    """A job as it goes out."""
    here = f"/v1/jobs/{job.id}"
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
        links=JobLinks(self=here, events=f"{here}/events", result=result if job.state is JobState.done else None),
    )
