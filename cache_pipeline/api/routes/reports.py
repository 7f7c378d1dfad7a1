"""Routes of reports: 200 with the answer from stored data, or 202 with a job to follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from cache_pipeline.api import schemas
from cache_pipeline.api.answer_body import render_body
from cache_pipeline.api.dependencies import Caller, QueryServiceDependency
from cache_pipeline.api.jobs.idempotency import parse_idempotency_key
from cache_pipeline.api.key_limits import may_query
from cache_pipeline.api.middleware import JOB_TIER
from cache_pipeline.api.negotiation import (
    MediaFormat,
    Preference,
    accepts_json,
    negotiate_format,
    parse_prefer,
    wants_refresh,
)
from cache_pipeline.api.openapi import ANSWERS, problem_responses
from cache_pipeline.api.parsing import (
    NAME_TIMES,
    SAFE_CSV,
    ParsedQuery,
    check_permission,
    parse_filters,
    parse_list,
    parse_payload,
    parse_query,
)
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService, ServedAnswer, job_problem
from cache_pipeline.api.response_headers import answer_headers, etag_matches, format_etag
from cache_pipeline.api.routes.jobs import show_job
from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.live_part import choose_live_part
from cache_pipeline.query.live_report import LiveReport, check_live_request
from cache_pipeline.query.measure_columns import add_measures, measure_columns
from cache_pipeline.query.measures import label_of
from cache_pipeline.query.names import distinct_ids
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.service.live_answers import live_columns, observed_column
from cache_pipeline.service.live_part import add_live_part, read_live_part
from cache_pipeline.service.names import Names
from cache_pipeline.storage.answer import Answer, read_rows, replace_rows
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.hot import MAX_HOT_BYTES
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.storage.ttl import report_freshness
from cache_pipeline.vendors.registry import payload_examples


class RequestPreferences:
    """The preferences in a request's headers: format, waiting, revalidation and refresh."""

    def __init__(
        self,
        request: Request,
        *,
        accept: str | None,
        prefer: str | None,
        if_none_match: str | None,
        cache_control: str | None,
    ) -> None:
        self.media_format: MediaFormat = negotiate_format(accept)
        self.accepts_json = accepts_json(accept)
        self.prefer: Preference = parse_prefer(prefer)
        self.if_none_match = if_none_match
        self.refresh = wants_refresh(cache_control)
        self.state = request.state

    @property
    def rate_limit_headers(self) -> dict[str, str]:
        """The headers of the caller's rate limit."""
        return getattr(self.state, "rate_limit_headers", {})


async def _read_preferences(
    request: Request,
    accept: Annotated[str | None, Header(description=f"One of {', '.join(MediaFormat)}")] = None,
    prefer: Annotated[str | None, Header(description="wait=SECONDS, or respond-async (RFC 7240)")] = None,
    if_none_match: Annotated[str | None, Header(description="ETag of the answer that the caller has")] = None,
    cache_control: Annotated[
        str | None,
        Header(description="no-cache: refetch provisional figures from the vendor, if the key may do that"),
    ] = None,
) -> RequestPreferences:
    return RequestPreferences(
        request, accept=accept, prefer=prefer, if_none_match=if_none_match, cache_control=cache_control
    )


_Preferences = Annotated[RequestPreferences, Depends(_read_preferences)]


router = APIRouter(tags=["reports"])
ReportName = Annotated[str, Path(description="Name of a declared report", examples=["queue_interval"], max_length=47)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="A key of your choice; a request that is sent again with it follows the same job (an IETF draft)",
        examples=['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
        max_length=300,
    ),
]


_PARAMETERS = (
    *(
        "interval",
        "group_by",
        "metrics",
        "granularity",
        "time_zone",
        "filters",
        "names",
        "csv",
        "align",
        "measures",
        "as_of",
        "live",
    ),
)
#: What of them changes only how an answer is written.
_PRESENTATION = ("names", "csv")


async def _check_parameters(request: Request) -> None:
    """Refuse unknown parameters: a misspelt name would be ignored silently, and the answer would be to another query."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in _PARAMETERS:
            raise InvalidQuery(name, f"is an unknown parameter; expected one of {', '.join(_PARAMETERS)}")
        if name in seen:
            raise InvalidQuery(name, "is given twice: give it once, with commas between values")
        seen.add(name)


async def _query_from_url(
    interval: Annotated[
        str | None,
        Query(
            description="start/end, half-open, ISO 8601; instants without an offset are in the time zone of the query. Required, "
            "but for live reports, which have none",
            examples=["2026-11-16/2026-11-17"],
            min_length=3,
            max_length=100,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        Query(description="A subset of the report's dimensions, comma-separated; empty for totals", max_length=2000),
    ] = None,
    metrics: Annotated[
        str | None, Query(description="A subset of the report's metrics, comma-separated", max_length=2000)
    ] = None,
    granularity: Annotated[
        str | None, Query(description="A longer bucket size, ISO 8601", examples=["PT1H"], max_length=50)
    ] = None,
    time_zone: Annotated[str | None, Query(description="IANA time zone of days and hours", max_length=50)] = None,
    filters: Annotated[
        str | None,
        Query(
            description="Which rows to include, as JSON",
            examples=['{"predicates": [{"dimension": "queue", "values": ["q-1"]}]}'],
            max_length=8000,
        ),
    ] = None,
    names: Annotated[Literal["current", "then", "true"] | None, Query(description=schemas.NAMES_DESCRIPTION)] = None,
    csv: Annotated[Literal["safe"] | None, Query(description=schemas.CSV_DESCRIPTION)] = None,
    measures: Annotated[
        str | None, Query(description=f"{schemas.MEASURES_DESCRIPTION}; comma-separated", max_length=2000)
    ] = None,
    align: Annotated[Literal["buckets"] | None, Query(description=schemas.ALIGN_DESCRIPTION)] = None,
    as_of: Annotated[
        str | None, Query(description=schemas.AS_OF_DESCRIPTION, examples=[schemas.AS_OF_EXAMPLE], max_length=50)
    ] = None,
    live: Annotated[bool | None, Query(description=schemas.LIVE_DESCRIPTION)] = None,
) -> dict[str, Any]:
    return {
        "interval": interval,
        "group_by": parse_list(group_by),
        "metrics": parse_list(metrics),
        "granularity": granularity,
        "time_zone": time_zone,
        "filters": parse_filters(filters),
        "names": names,
        "csv": csv,
        "measures": parse_list(measures),
        "align": align,
        "as_of": as_of,
        "live": live or None,
    }


@router.get(
    "/v1/reports/{report}",
    response_model=None,
    responses=ANSWERS,
    summary="Query a report",
    operation_id="readReport",
    # Checked first: where a name is misspelt the right one is missing too, and that error would hide the cause.
    dependencies=[Depends(_check_parameters)],
)
async def read_report(
    report: ReportName,
    url_query: Annotated[dict[str, Any], Depends(_query_from_url)],
    query_service: QueryServiceDependency,
    caller: Caller,
    preferences: _Preferences,
    request: Request,
) -> Response:
    """Return 200 with the finished answer if it is stored, or 202 with the job that fetches it.

    A live report is always answered with 200: with figures of at most thirty seconds ago.
    """
    if report in query_service.live_reports:
        return await _respond_live(query_service, report, url_query, caller, preferences)
    _require_interval(url_query, "query")
    parsed = _parse(query_service, report, url_query, caller)
    query_service.parse_cache.store(caller, request.scope, parsed)
    return await respond(query_service, parsed, caller, preferences)


@router.post(
    "/v1/reports/{report}",
    response_model=None,
    responses={**ANSWERS, **problem_responses(415)},
    summary="Query a report with a JSON body",
    operation_id="queryReport",
)
async def query_report(
    report: ReportName,
    query: schemas.QueryBody,
    query_service: QueryServiceDependency,
    caller: Caller,
    preferences: _Preferences,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Query a report as GET does, for queries that are too long for a URL."""
    request = query.model_dump(exclude_none=True)
    if report in query_service.live_reports:
        return await _respond_live(query_service, report, request, caller, preferences)
    _require_interval(request, "body")
    parsed = _parse(query_service, report, request, caller)
    return await _respond_idempotently(query_service, parsed, caller, preferences, idempotency_key)


@router.post(
    "/v1/queries",
    response_model=None,
    responses={**ANSWERS, **problem_responses(415)},
    summary="Query with a vendor payload",
    operation_id="query",
)
async def query_by_payload(
    payload: Annotated[dict[str, Any], Body(openapi_examples=payload_examples())],
    query_service: QueryServiceDependency,
    caller: Caller,
    preferences: _Preferences,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Query with the payload that would go to the vendor, as its documentation names the fields.

    The declared report that needs the least rolling up answers it. Request ids and metadata are ignored.
    """
    service = query_service.report_service_for(caller.tenant)
    max_buckets = query_service.settings.api.max_buckets
    parsed = parse_payload(service, query_service.reports, payload, caller, max_buckets)
    return await _respond_idempotently(query_service, parsed, caller, preferences, idempotency_key)


async def _respond_idempotently(
    query_service: QueryService,
    query: ParsedQuery,
    caller: Principal,
    preferences: RequestPreferences,
    header: str | None,
) -> Response:
    """Respond to a query, or with the job that an earlier request with the same Idempotency-Key led to."""
    key = parse_idempotency_key(header)
    if key is None:
        return await respond(query_service, query, caller, preferences)
    preferences.state.asked = query
    job_id = await query_service.idempotency.find_job(caller.id, key, query.key)
    job = await query_service.jobs.get(job_id, caller.tenant) if job_id else None
    if job is not None and job.state is JobState.failed and job.problem is not None:
        raise job_problem(job.problem)
    if job is not None and not job.state.is_finished:
        accepted = await query_service.describe_job(job, is_joined=True)
        return await _render_outcome(query_service, query, caller, preferences, accepted)
    outcome = await query_service.serve(query, caller, refresh=preferences.refresh and job is None)
    if isinstance(outcome, AcceptedJob):
        await query_service.idempotency.store_job(caller.id, key, query.key, outcome.job.id)
    return await _render_outcome(query_service, query, caller, preferences, outcome)


async def _respond_live(
    query_service: QueryService,
    name: str,
    request: dict[str, Any],
    caller: Principal,
    preferences: RequestPreferences,
) -> Response:
    """Respond with what a live report shows now."""
    report = check_permission(query_service.live_reports, name, caller)
    check_live_request(report, {field: request.get(field) for field in _PARAMETERS if field not in _PRESENTATION})
    served = await query_service.serve_live(report, caller.tenant)
    columns = live_columns(report)
    if names := request.get("names"):
        stored = Names(query_service.report_service.names, caller.tenant)
        answer = await asyncio.to_thread(stored.add_to_answer, report, columns, served.answer, NAME_TIMES[names])
        served = replace(served, answer=answer)
    is_safe = request.get("csv") == SAFE_CSV
    return await _answer(query_service, report, lambda: columns, served, preferences, has_safe_text=is_safe)


def _require_interval(request: Mapping[str, Any], place: str) -> None:
    """Refuse a query without an interval, of a report that is not live."""
    if request.get("interval") is None:
        missing = {"type": "missing", "loc": (place, "interval"), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])


def _parse(query_service: QueryService, report: str, request: dict[str, Any], caller: Principal) -> ParsedQuery:
    declared = check_permission(query_service.reports, report, caller)
    service = query_service.report_service_for(caller.tenant)
    parsed = parse_query(service, declared, request, caller, query_service.settings.api.max_buckets)
    if not request.get("live"):
        return parsed
    is_of_the_past = parsed.as_of is not None
    live = choose_live_part(parsed.resolved.requested, query_service.live_reports, is_of_the_past=is_of_the_past)
    return replace(parsed, live=check_permission(query_service.live_reports, live.name, caller))


async def respond(
    query_service: QueryService, query: ParsedQuery, caller: Principal, preferences: RequestPreferences
) -> Response:
    """Respond to a query, waiting for its job as long as the caller prefers."""
    preferences.state.asked = query
    outcome = await query_service.serve(query, caller, refresh=preferences.refresh)
    return await _render_outcome(query_service, query, caller, preferences, outcome)


async def _render_outcome(
    query_service: QueryService,
    query: ParsedQuery,
    caller: Principal,
    preferences: RequestPreferences,
    outcome: ServedAnswer | AcceptedJob,
) -> Response:
    applied = preferences.prefer.applied
    if isinstance(outcome, AcceptedJob) and preferences.prefer.wait_seconds:
        outcome = await query_service.wait_for_outcome(query, caller, outcome, preferences.prefer.wait_seconds)
    if isinstance(outcome, ServedAnswer):
        return await answer_response(query_service, query, outcome, preferences)
    preferences.state.tier = JOB_TIER
    headers = {
        "Location": f"/v1/jobs/{outcome.job.id}",
        "Retry-After": str(outcome.retry_after or 1),
        "Cache-Control": "no-store",
        "Cache-Status": f"cache-pipeline; fwd=miss{'; collapsed' if outcome.is_joined else ''}",
        **({"Preference-Applied": applied} if applied else {}),
        **preferences.rate_limit_headers,
    }
    if not preferences.accepts_json:
        # A program that reads only rows, such as a spreadsheet, would take the job for them.
        raise Problem(
            "not-ready",
            503,
            "the answer is being fetched from the vendor: send the request again after Retry-After, or send "
            "Accept: application/json as well and follow the job at Location",
            headers=headers,
        )
    return JSONResponse(show_job(outcome).model_dump(mode="json", by_alias=True), 202, headers)


async def answer_response(
    query_service: QueryService, query: ParsedQuery, served: ServedAnswer, preferences: RequestPreferences
) -> Response:
    """Return an answer in the requested format, or 304 if the caller already has it."""
    served = await _with_names(query_service, query, served)
    if query.measures:
        served = replace(served, answer=await asyncio.to_thread(_add_measures, query_service, query, served.answer))
    if query.live is not None:
        served = replace(served, answer=await _add_live_part(query_service, query, query.live, served.answer))

    def columns() -> Sequence[Column]:
        declared = query_service.report_service.columns(query.resolved.requested)
        return (*declared, *measure_columns(query.measures))

    # Names change, so an answer with names does too.
    is_immutable = query.as_of is not None and query.names is None
    return await _answer(
        query_service,
        query.report,
        columns,
        served,
        preferences,
        has_safe_text=query.has_safe_text,
        is_immutable=is_immutable,
    )


async def _answer(
    query_service: QueryService,
    report: Report | LiveReport,
    columns: Callable[[], Sequence[Column]],
    served: ServedAnswer,
    preferences: RequestPreferences,
    *,
    has_safe_text: bool,
    is_immutable: bool = False,
) -> Response:
    fixed = answer_headers(
        served.answer,
        preferences.media_format,
        report,
        served.source,
        query_service.clock(),
        policy=query_service.cache_policy,
        is_collapsed=served.is_collapsed,
        is_immutable=is_immutable,
    )
    headers = {**fixed, **preferences.rate_limit_headers}
    preferences.state.tier = served.source
    if preferences.prefer.wait_seconds and preferences.prefer.applied:
        headers["Preference-Applied"] = preferences.prefer.applied
    if etag_matches(preferences.if_none_match, format_etag(preferences.media_format, served.answer.etag)):
        del headers["Content-Type"]
        return Response(status_code=304, headers=headers)
    if preferences.media_format is MediaFormat.json:
        return Response(served.answer.body, headers=headers)
    answer = served.answer
    parts = render_body(preferences.media_format, answer.body, columns(), answer.rows, has_safe_text=has_safe_text)
    if len(answer.body) > MAX_HOT_BYTES:
        # Starlette takes each part from the generator in a thread.
        return StreamingResponse(parts, headers=headers)
    return Response(await asyncio.to_thread(b"".join, parts), headers=headers)


def _add_measures(query_service: QueryService, query: ParsedQuery, answer: Answer) -> Answer:
    columns = query_service.report_service.columns(query.resolved.requested)
    rows = read_rows(answer.body, columns) if answer.rows is None else answer.rows
    return replace_rows(answer, add_measures(rows, query.measures))


async def _add_live_part(query_service: QueryService, query: ParsedQuery, report: LiveReport, answer: Answer) -> Answer:
    live, tenant = query_service.report_service.live_answers, query.query.series.tenant
    part = await read_live_part(live, report, query.resolved, tenant, query_service.clock())
    declared = query_service.report_service.columns(query.resolved.requested)
    columns = (*declared, *measure_columns(query.measures))
    names = (Names(query_service.report_service.names, tenant), query.names) if query.names else None
    joined = await asyncio.to_thread(add_live_part, answer, columns, query.resolved, part, names)
    if joined.rows is not None:
        await live.seek_unlisted(report, tenant, distinct_ids(joined.rows, observed_column(report)))
    return joined


async def _with_names(query_service: QueryService, query: ParsedQuery, served: ServedAnswer) -> ServedAnswer:
    if query.names is None:
        return served
    service, report = query_service.report_service, query.resolved.requested
    names = Names(service.names, query.query.series.tenant)
    answer = await asyncio.to_thread(names.add_to_answer, report, service.columns(report), served.answer, query.names)
    return replace(served, answer=answer)


@router.get("/v1/reports", responses=problem_responses(), summary="List reports", operation_id="listReports")
async def list_reports(query_service: QueryServiceDependency, caller: Caller, response: Response) -> schemas.ReportList:
    """Return the reports that this key may query."""
    response.headers["Cache-Control"] = "no-store"
    reports = [_info(report) for report in query_service.reports.values() if may_query(caller, report)]
    live = [
        schemas.LiveReportInfo(
            name=name,
            description=report.description,
            platform=report.platform,
            query_type=report.query_type,
            group_by=list(report.group_by),
            metrics=list(report.metrics),
            freshness_seconds=int(report_freshness(report).total_seconds()),
            href=f"/v1/reports/{name}",
        )
        for name, report in query_service.live_reports.items()
        if may_query(caller, report)
    ]
    return schemas.ReportList(reports=reports, live_reports=live)


def _info(report: Report) -> schemas.ReportInfo:
    values: dict[str, Any] = {
        "name": report.name,
        "description": report.description,
        "platform": report.platform,
        "granularity": report.granularity,
        "time_zone": report.time_zone,
        "group_by": list(report.group_by),
        "metrics": list(report.metrics),
        "measures": [
            {
                "name": name,
                "label": label_of(name, measure),
                "formula": measure.formula,
                "kind": measure.kind,
                "description": measure.description,
            }
            for name, measure in report.measures.items()
            if measure is not None
        ],
        "live_report": report.live,
        "start": report.start.isoformat(),
        "freshness_seconds": int(report_freshness(report).total_seconds()),
        "href": f"/v1/reports/{report.name}",
    }
    return schemas.ReportInfo(**values)
