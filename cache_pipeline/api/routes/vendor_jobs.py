"""Routes of the vendors' own asynchronous queries: submit, status, results by page, and delete."""

from __future__ import annotations

import json
import zlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import keeps_divisions
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService
from cache_pipeline.api.routes.vendor_answers import (
    VendorRoute,
    answer_document,
    completeness_headers,
    parse_served,
    rate_limit_headers,
    read_json,
    serve_within_hold,
)
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.storage.ports.submitted_queries import SubmittedQuery
from cache_pipeline.vendors.served import JobFacts, JobPaths

#: How long a submitted query can be read. The answer itself stays in history.
_LIFETIME = timedelta(hours=6)


def job_routes(paths: JobPaths) -> list[VendorRoute]:
    """Return the routes of one kind of asynchronous queries."""

    def route(template: str, method: str, answer: Callable[[JobPaths, Request], Awaitable[Response]]) -> VendorRoute:
        # Starlette takes a partial for an application.
        @keeps_divisions
        @wraps(answer)
        async def endpoint(request: Request) -> Response:
            return await answer(paths, request)

        return VendorRoute(template, endpoint, methods=[method])

    return [
        route(paths.submit, "POST", _submit),
        route(paths.status, "GET", _show_status),
        route(paths.results, "GET", _show_results),
        *([route(paths.status, "DELETE", _delete)] if paths.has_delete else []),
    ]


async def _submit(paths: JobPaths, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    body = read_json(await request.body())
    query = parse_served(query_service, caller, paths.read(body))
    outcome = await query_service.serve(query, caller)
    job_id = outcome.job.id if isinstance(outcome, AcceptedJob) else None
    submitted = await query_service.submitted_queries.add(
        caller.tenant, caller.id, paths.submit, body, job_id, _LIFETIME
    )
    status, document = paths.accepted(await _facts(query_service, caller, submitted))
    return JSONResponse(document, status, headers=_headers(request))


async def _show_status(paths: JobPaths, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    submitted = await _find(query_service, caller, paths, request)
    document = paths.describe(await _facts(query_service, caller, submitted))
    return JSONResponse(document, headers=_headers(request))


async def _show_results(paths: JobPaths, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    submitted = await _find(query_service, caller, paths, request)
    facts = await _facts(query_service, caller, submitted)
    if facts.state is not JobState.done:
        raise Problem(
            "not-ready", 400, f"query {facts.id} is {facts.state}, so it has no results: wait until it is done"
        )
    parameters = dict(request.query_params)
    headers = _headers(request)
    if submitted.answer is not None:
        page, _ = paths.page(facts, json.loads(zlib.decompress(submitted.answer)), submitted.body, parameters)
        return JSONResponse(page, headers=headers)
    served = paths.read(submitted.body)
    query = parse_served(query_service, caller, served)
    outcome = await serve_within_hold(query_service, request, caller, query)
    document = await answer_document(query_service, served, query, outcome)
    page, is_last = paths.page(facts, document, submitted.body, parameters)
    if not is_last:
        # All pages are of one answer, whatever is fetched while they are read.
        await query_service.submitted_queries.keep_answer(submitted.id, zlib.compress(json.dumps(document).encode()))
    return JSONResponse(page, headers=headers | completeness_headers(query_service, query, outcome))


async def _delete(paths: JobPaths, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    submitted = await _find(query_service, caller, paths, request)
    await query_service.submitted_queries.remove(submitted.id)
    if submitted.job_id is not None:
        await query_service.jobs.cancel(submitted.job_id, caller.tenant, caller.id)
        await query_service.events.publish(submitted.job_id)
    return Response(status_code=204, headers=_headers(request))


def _headers(request: Request) -> dict[str, str]:
    return {"Cache-Control": "no-store", **rate_limit_headers(request)}


async def _find(query_service: QueryService, caller: Principal, paths: JobPaths, request: Request) -> SubmittedQuery:
    text: str = request.path_params["job_id"]
    try:
        found = await query_service.submitted_queries.find(UUID(text), caller.tenant, caller.id, paths.submit)
    except ValueError:
        found = None
    if found is None:
        raise Problem("unknown-job", 404, f"unknown query {text[:80]!r}: submit it again")
    return found


async def _facts(query_service: QueryService, caller: Principal, submitted: SubmittedQuery) -> JobFacts:
    job = await query_service.jobs.get(submitted.job_id, caller.tenant) if submitted.job_id else None
    problem: Mapping[str, Any] = (job.problem if job else None) or {}
    return JobFacts(
        id=str(submitted.id),
        # A job that ended long ago is forgotten before the query is; its answer is stored.
        state=job.state if job else JobState.done,
        percent=job.percent if job and job.state is not JobState.done else 100.0,
        submitted_at=submitted.submitted_at,
        finished_at=job.finished_at if job else submitted.submitted_at,
        expires_at=submitted.expires_at,
        error=str(problem["detail"]) if "detail" in problem else None,
    )
