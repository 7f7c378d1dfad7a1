"""Answers of reports: 200 from what is kept, or 202 and a job to follow."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from cache_pipeline.gateway import wire
from cache_pipeline.gateway.asked import Asked, asked, permitted
from cache_pipeline.gateway.callers import Caller, TheGateway
from cache_pipeline.gateway.documented import ANSWERS, problems
from cache_pipeline.gateway.gateway import Accepted, Gateway, Served, failed
from cache_pipeline.gateway.headers import Source, answer_headers, etag_in, matches
from cache_pipeline.gateway.job import JobState
from cache_pipeline.gateway.jobs_api import view
from cache_pipeline.gateway.keys import Principal
from cache_pipeline.gateway.negotiation import Form, Preference, body_in, form_of, preference_of
from cache_pipeline.query.report import Report
from cache_pipeline.tiers.ttl import report_freshness

router = APIRouter(tags=["reports"])


class Wishes:
    """What the headers of a request wish for."""

    def __init__(
        self,
        request: Request,
        accept: Annotated[str | None, Header(description=f"One of {', '.join(Form)}")] = None,
        prefer: Annotated[str | None, Header(description="wait=SECONDS, or respond-async (RFC 7240)")] = None,
        if_none_match: Annotated[str | None, Header(description="ETag of what the caller has")] = None,
    ) -> None:
        self.form: Form = form_of(accept)
        self.preference: Preference = preference_of(prefer)
        self.if_none_match = if_none_match
        self.rate: dict[str, str] = getattr(request.state, "rate", {})


_Wishes = Annotated[Wishes, Depends()]
ReportName = Annotated[str, Path(description="Name of a declared report", examples=["queue_interval"], max_length=47)]


@router.get(
    "/v1/reports/{report}",
    response_model=None,
    responses=ANSWERS,
    summary="Answer a report's query",
    operation_id="readReport",
)
async def read_report(
    report: ReportName,
    interval: Annotated[
        str,
        Query(
            description="start/end, half-open, ISO 8601; ends without an offset are in the report's time zone",
            examples=["2026-11-16/2026-11-17"],
            min_length=3,
            max_length=100,
        ),
    ],
    gateway: TheGateway,
    caller: Caller,
    wishes: _Wishes,
) -> Response:
    """200 with the finished answer where it is kept; else 202 with the job that fetches it."""
    declared = permitted(gateway.reports, report, caller)
    question = asked(gateway.service_of(caller.tenant), declared, interval, gateway.settings.gateway.max_buckets)
    return await answered(gateway, question, caller, wishes)


@router.post(
    "/v1/reports/{report}",
    response_model=None,
    responses={**ANSWERS, **problems(415)},
    summary="Answer a report's query, given as a body",
    operation_id="queryReport",
)
async def query_report(
    report: ReportName, query: wire.Query, gateway: TheGateway, caller: Caller, wishes: _Wishes
) -> Response:
    """The same as GET, for queries that are too long for a URL."""
    declared = permitted(gateway.reports, report, caller)
    question = asked(gateway.service_of(caller.tenant), declared, query.interval, gateway.settings.gateway.max_buckets)
    return await answered(gateway, question, caller, wishes)


async def answered(gateway: Gateway, question: Asked, caller: Principal, wishes: Wishes) -> Response:
    """Serve a question, waiting for its job as long as the caller prefers."""
    outcome = await gateway.serve(question, caller)
    applied = wishes.preference.applied
    if isinstance(outcome, Accepted) and wishes.preference.wait_seconds:
        outcome = await _awaited(gateway, question, caller, outcome, wishes.preference.wait_seconds)
    if isinstance(outcome, Served):
        return await answer_response(gateway, question.report, outcome, wishes)
    headers = {
        "Location": f"/v1/jobs/{outcome.job.id}",
        "Retry-After": str(outcome.retry_after or 1),
        "Cache-Control": "no-store",
        "Cache-Status": f"cache-pipeline; fwd=miss{'; collapsed' if outcome.joined else ''}",
        **({"Preference-Applied": applied} if applied else {}),
        **wishes.rate,
    }
    return JSONResponse(view(outcome).model_dump(mode="json", by_alias=True), 202, headers)


async def _awaited(
    gateway: Gateway, question: Asked, caller: Principal, accepted: Accepted, seconds: float
) -> Served | Accepted:
    job = await gateway.awaited(accepted.job, caller.tenant, seconds)
    if job.state is JobState.failed and job.problem is not None:
        raise failed(job.problem)
    if job.state is JobState.done:
        outcome = await gateway.serve(question, caller)
        if isinstance(outcome, Served):
            return Served(outcome.answer, Source.vendor, accepted.joined)
        return outcome
    return await gateway.accepted(job, joined=accepted.joined)


async def answer_response(gateway: Gateway, report: Report, served: Served, wishes: Wishes) -> Response:
    """An answer in the form that is wanted, or 304 where the caller has it."""
    headers = answer_headers(
        served.answer,
        wishes.form,
        report,
        served.source,
        gateway.clock(),
        policy=gateway.caching,
        collapsed=served.collapsed,
    )
    headers |= wishes.rate
    if wishes.preference.wait_seconds and wishes.preference.applied:
        headers["Preference-Applied"] = wishes.preference.applied
    if matches(wishes.if_none_match, etag_in(wishes.form, served.answer.etag)):
        del headers["Content-Type"]
        return Response(status_code=304, headers=headers)
    columns = gateway.service.columns(report)
    body = await asyncio.to_thread(body_in, wishes.form, served.answer.body, columns)
    return Response(body, headers=headers)


@router.get("/v1/reports", responses=problems(), summary="List the reports", operation_id="listReports")
async def list_reports(gateway: TheGateway, caller: Caller) -> wire.ReportList:
    """The reports that this key may ask for."""
    return wire.ReportList(reports=[_info(report) for name, report in gateway.reports.items() if caller.may_ask(name)])


def _info(report: Report) -> wire.ReportInfo:
    values: dict[str, Any] = {
        "report": report.report,
        "description": report.description,
        "platform": report.platform,
        "granularity": report.granularity,
        "time_zone": report.time_zone,
        "group_by": list(report.group_by),
        "metrics": list(report.metrics),
        "start": report.start.isoformat(),
        "freshness_seconds": int(report_freshness(report).total_seconds()),
        "href": f"/v1/reports/{report.report}",
    }
    return wire.ReportInfo(**values)
