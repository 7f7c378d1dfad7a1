"""Answers of reports: 200 from what is kept, or 202 and a job to follow."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from cache_pipeline.api import schemas as wire
from cache_pipeline.api.auth import Principal
from cache_pipeline.api.dependencies import Caller, TheGateway
from cache_pipeline.api.jobs.idempotency import idempotency_key as read_key
from cache_pipeline.api.jobs.job import JobState
from cache_pipeline.api.negotiation import (
    MediaFormat,
    Preference,
    negotiate_format,
    parse_prefer,
    render_body,
    wants_refresh,
)
from cache_pipeline.api.openapi import ANSWERS, problem_responses
from cache_pipeline.api.parsing import (
    ParsedQuery,
    check_permission,
    parse_filters,
    parse_list,
    parse_payload,
    parse_query,
)
from cache_pipeline.api.query_service import AcceptedJob, QueryService, ServedAnswer, failed
from cache_pipeline.api.response_headers import CacheStatusSource, answer_headers, etag_matches, parse_etags
from cache_pipeline.api.routes.jobs import show_job
from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.report import Report
from cache_pipeline.storage.ttl import report_freshness

router = APIRouter(tags=["reports"])


class RequestPreferences:
    """What the headers of a request wish for."""

    def __init__(
        self,
        request: Request,
        accept: Annotated[str | None, Header(description=f"One of {', '.join(MediaFormat)}")] = None,
        prefer: Annotated[str | None, Header(description="wait=SECONDS, or respond-async (RFC 7240)")] = None,
        if_none_match: Annotated[str | None, Header(description="ETag of what the caller has")] = None,
        cache_control: Annotated[
            str | None,
            Header(description="no-cache: have the vendor asked again for what is provisional, where the key may"),
        ] = None,
    ) -> None:
        self.form: MediaFormat = negotiate_format(accept)
        self.preference: Preference = parse_prefer(prefer)
        self.if_none_match = if_none_match
        self.refresh = wants_refresh(cache_control)
        self.state = request.state

    @property
    def rate(self) -> dict[str, str]:
        """What is left to the caller, as headers."""
        return getattr(self.state, "rate", {})


_Wishes = Annotated[RequestPreferences, Depends()]
ReportName = Annotated[str, Path(description="Name of a declared report", examples=["queue_interval"], max_length=47)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="The same for a request that is sent again: it follows the same job (an IETF draft)",
        examples=['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
        max_length=300,
    ),
]


_PAYLOADS: dict[str, Any] = {
    "guide": {
        "summary": "A day by hour, of some queues",
        "value": {
            "reportId": "queue-performance",
            "timeGrouping": "byHour",
            "interval": "2026-11-16T00:00:00Z/2026-11-17T00:00:00Z",
            "filters": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "in", "values": ["q-1"]}]},
        },
    }
}


_PARAMETERS = ("interval", "group_by", "metrics", "granularity", "time_zone", "filters")


def _check_parameters(request: Request) -> None:
    """A name that is misspelt would be left out in silence, and the answer be to another question."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in _PARAMETERS:
            raise InvalidQuery(name, f"is no parameter: there are {', '.join(_PARAMETERS)}")
        if name in seen:
            raise InvalidQuery(name, "is given twice")
        seen.add(name)


def _from_url(
    interval: Annotated[
        str,
        Query(
            description="start/end, half-open, ISO 8601; ends without an offset are in the zone that is asked for",
            examples=["2026-11-16/2026-11-17"],
            min_length=3,
            max_length=100,
        ),
    ],
    group_by: Annotated[
        str | None, Query(description="Fewer dimensions, with commas between; empty for totals", max_length=2000)
    ] = None,
    metrics: Annotated[str | None, Query(description="Fewer metrics, with commas between", max_length=2000)] = None,
    granularity: Annotated[
        str | None, Query(description="Longer buckets, ISO 8601", examples=["PT1H"], max_length=50)
    ] = None,
    time_zone: Annotated[
        str | None, Query(description="Whose days and hours are meant, by IANA name", max_length=50)
    ] = None,
    filters: Annotated[
        str | None,
        Query(
            description="Rows to keep, as JSON",
            examples=['{"predicates": [{"dimension": "queueId", "values": ["q-1"]}]}'],
            max_length=8000,
        ),
    ] = None,
) -> dict[str, Any]:
    return {
        "interval": interval,
        "group_by": parse_list(group_by),
        "metrics": parse_list(metrics),
        "granularity": granularity,
        "time_zone": time_zone,
        "filters": parse_filters(filters),
    }


@router.get(
    "/v1/reports/{report}",
    response_model=None,
    responses=ANSWERS,
    summary="Answer a report's query",
    operation_id="readReport",
    # Before anything else is looked at: of a name that is misspelt the right one is missing too.
    dependencies=[Depends(_check_parameters)],
)
async def read_report(
    report: ReportName,
    question: Annotated[dict[str, Any], Depends(_from_url)],
    gateway: TheGateway,
    caller: Caller,
    wishes: _Wishes,
    request: Request,
) -> Response:
    """200 with the finished answer where it is kept; else 202 with the job that fetches it."""
    found = _asked(gateway, report, question, caller)
    is_whole = found.query.interval == found.wanted.interval and found.query.available_interval == found.query.interval
    gateway.questions.remember(caller.tenant, request.scope, found.report, found.query, is_whole=is_whole)
    return await answered(gateway, found, caller, wishes)


@router.post(
    "/v1/reports/{report}",
    response_model=None,
    responses={**ANSWERS, **problem_responses(415)},
    summary="Answer a report's query, given as a body",
    operation_id="queryReport",
)
async def query_report(
    report: ReportName,
    query: wire.QueryBody,
    gateway: TheGateway,
    caller: Caller,
    wishes: _Wishes,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """The same as GET, for queries that are too long for a URL."""
    asked_now = _asked(gateway, report, query.model_dump(exclude_none=True), caller)
    return await _answered_once(gateway, asked_now, caller, wishes, idempotency_key)


@router.post(
    "/v1/queries",
    response_model=None,
    responses={**ANSWERS, **problem_responses(415)},
    summary="Answer a query in the vendor's words",
    operation_id="query",
)
async def query_by_payload(
    payload: Annotated[dict[str, Any], Body(openapi_examples=_PAYLOADS)],
    gateway: TheGateway,
    caller: Caller,
    wishes: _Wishes,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answered by the declared report that needs the least rolling up.

    The payload is what would go to the vendor: `reportId`, `timeGrouping`, `interval`, `filters`. Request ids and
    metadata are no part of the question.
    """
    service = gateway.service_of(caller.tenant)
    question = parse_payload(service, gateway.reports, payload, caller, gateway.settings.gateway.max_buckets)
    return await _answered_once(gateway, question, caller, wishes, idempotency_key)


async def _answered_once(
    gateway: QueryService, question: ParsedQuery, caller: Principal, wishes: RequestPreferences, header: str | None
) -> Response:
    """Serve a question, or what an earlier request with the same Idempotency-Key led to."""
    key = read_key(header)
    if key is None:
        return await answered(gateway, question, caller, wishes)
    before = await gateway.repeats.job_of(caller, key, question.key)
    job = await gateway.jobs.get(before, caller.tenant) if before else None
    if job is not None and job.state is JobState.failed and job.problem is not None:
        raise failed(job.problem)
    if job is not None and not job.state.ended:
        return await _told(gateway, question, caller, wishes, await gateway.accepted(job, joined=True))
    outcome = await gateway.serve(question, caller, refresh=wishes.refresh and job is None)
    if isinstance(outcome, AcceptedJob):
        await gateway.repeats.note(caller, key, question.key, outcome.job.id)
    return await _told(gateway, question, caller, wishes, outcome)


def _asked(gateway: QueryService, report: str, question: dict[str, Any], caller: Principal) -> ParsedQuery:
    declared = check_permission(gateway.reports, report, caller)
    return parse_query(gateway.service_of(caller.tenant), declared, question, gateway.settings.gateway.max_buckets)


async def answered(
    gateway: QueryService, question: ParsedQuery, caller: Principal, wishes: RequestPreferences
) -> Response:
    """Serve a question, waiting for its job as long as the caller prefers."""
    return await _told(gateway, question, caller, wishes, await gateway.serve(question, caller, refresh=wishes.refresh))


async def _told(
    gateway: QueryService,
    question: ParsedQuery,
    caller: Principal,
    wishes: RequestPreferences,
    outcome: ServedAnswer | AcceptedJob,
) -> Response:
    applied = wishes.preference.applied
    if isinstance(outcome, AcceptedJob) and wishes.preference.wait_seconds:
        outcome = await _awaited(gateway, question, caller, outcome, wishes.preference.wait_seconds)
    if isinstance(outcome, ServedAnswer):
        return await answer_response(gateway, question, outcome, wishes)
    wishes.state.tier = "job"
    headers = {
        "Location": f"/v1/jobs/{outcome.job.id}",
        "Retry-After": str(outcome.retry_after or 1),
        "Cache-Control": "no-store",
        "Cache-Status": f"cache-pipeline; fwd=miss{'; collapsed' if outcome.joined else ''}",
        **({"Preference-Applied": applied} if applied else {}),
        **wishes.rate,
    }
    return JSONResponse(show_job(outcome).model_dump(mode="json", by_alias=True), 202, headers)


async def _awaited(
    gateway: QueryService, question: ParsedQuery, caller: Principal, accepted: AcceptedJob, seconds: float
) -> ServedAnswer | AcceptedJob:
    job = await gateway.awaited(accepted.job, caller.tenant, seconds)
    if job.state is JobState.failed and job.problem is not None:
        raise failed(job.problem)
    if job.state is JobState.done:
        outcome = await gateway.after(question, caller)
        if isinstance(outcome, ServedAnswer):
            return ServedAnswer(outcome.answer, CacheStatusSource.vendor, accepted.joined)
        return outcome
    return await gateway.accepted(job, joined=accepted.joined)


async def answer_response(
    gateway: QueryService, question: ParsedQuery, served: ServedAnswer, wishes: RequestPreferences
) -> Response:
    """An answer in the form that is wanted, or 304 where the caller has it."""
    headers = answer_headers(
        served.answer,
        wishes.form,
        question.report,
        served.source,
        gateway.clock(),
        policy=gateway.caching,
        collapsed=served.collapsed,
    )
    headers |= wishes.rate
    wishes.state.tier = served.source
    if wishes.preference.wait_seconds and wishes.preference.applied:
        headers["Preference-Applied"] = wishes.preference.applied
    if etag_matches(wishes.if_none_match, parse_etags(wishes.form, served.answer.etag)):
        del headers["Content-Type"]
        return Response(status_code=304, headers=headers)
    columns = gateway.service.columns(question.wanted.requested)
    body = await asyncio.to_thread(render_body, wishes.form, served.answer.body, columns)
    return Response(body, headers=headers)


@router.get("/v1/reports", responses=problem_responses(), summary="List the reports", operation_id="listReports")
async def list_reports(gateway: TheGateway, caller: Caller, response: Response) -> wire.ReportList:
    """The reports that this key may ask for."""
    response.headers["Cache-Control"] = "no-store"
    return wire.ReportList(reports=[_info(report) for name, report in gateway.reports.items() if caller.may_ask(name)])


def _info(report: Report) -> wire.ReportInfo:
    values: dict[str, Any] = {
        "report": report.name,
        "description": report.description,
        "platform": report.platform,
        "granularity": report.granularity,
        "time_zone": report.time_zone,
        "group_by": list(report.group_by),
        "metrics": list(report.metrics),
        "start": report.start.isoformat(),
        "freshness_seconds": int(report_freshness(report).total_seconds()),
        "href": f"/v1/reports/{report.name}",
    }
    return wire.ReportInfo(**values)
