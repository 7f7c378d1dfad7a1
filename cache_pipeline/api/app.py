"""Builds the FastAPI application: its services, middleware, routes and error handlers."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route

from cache_pipeline.aio import run_in_background
from cache_pipeline.api import schemas
from cache_pipeline.api.audit import audit_logger
from cache_pipeline.api.auth import ApiKeyCache
from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.api.known_urls import KnownUrls
from cache_pipeline.api.middleware import (
    CorrelationMiddleware,
    HeadRequests,
    RequestCounter,
    RequestLimits,
    allowed_methods,
)
from cache_pipeline.api.monitoring.ad_hoc_requests import AdHocRequests
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.monitoring.demand_recorder import DemandRecorder
from cache_pipeline.api.monitoring.manifest_cache import open_manifest_cache
from cache_pipeline.api.parsing import ParseCache
from cache_pipeline.api.problem_pages import ProblemPages
from cache_pipeline.api.problems import Problem, error_response, problem_for
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.rate_limit import RateLimiter
from cache_pipeline.api.routes import jobs as job_routes
from cache_pipeline.api.routes import live as live_routes
from cache_pipeline.api.routes import operations as operation_routes
from cache_pipeline.api.routes import pages as page_routes
from cache_pipeline.api.routes import reports as report_routes
from cache_pipeline.api.routes.pass_through import find_passed_paths, pass_through_routes
from cache_pipeline.api.routes.vendor_paths import vendor_routes
from cache_pipeline.api.routes.vendor_shared_jobs import shared_job_routes
from cache_pipeline.api.turns import KeyTurns, StrangerTurns
from cache_pipeline.api.vendor_form import VendorForm
from cache_pipeline.bootstrap.accounts import open_cookieless_client, open_quotas
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import load_all_reports
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.redis_connection import check_writable, open_redis
from cache_pipeline.service.cached_answers import AnswerLimits
from cache_pipeline.service.live_push import LivePush
from cache_pipeline.service.shared_answers import SharedAnswers
from cache_pipeline.settings import Settings
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.postgres.ad_hoc_series import PostgresAdHocSeries
from cache_pipeline.storage.postgres.api_keys import PostgresApiKeyStore
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.jobs import PostgresJobStore
from cache_pipeline.storage.postgres.status_queries import PostgresStatusQueries
from cache_pipeline.storage.postgres.submitted_queries import PostgresSubmittedQueries
from cache_pipeline.storage.redis.counters import RedisMetricCounts, RedisRequestCounts
from cache_pipeline.storage.redis.demand import RedisDemandCounter
from cache_pipeline.storage.redis.heartbeats import RedisWorkerHeartbeats
from cache_pipeline.storage.redis.idempotency import RedisIdempotencyKeys
from cache_pipeline.storage.redis.job_events import RedisJobEvents
from cache_pipeline.storage.redis.shared_answers import RedisSharedAnswers
from cache_pipeline.vendors.registry import served_apis
from cache_pipeline.vendors.served import ServedApi

_ROUTERS = (
    report_routes.router,
    live_routes.router,
    job_routes.router,
    operation_routes.router,
    page_routes.router,
)
_POSTGRES_CONNECTIONS = 12
_EXPOSED_HEADERS = [
    "Age",
    "Cache-Status",
    "Complete-Through",
    "ETag",
    "Link",
    "Location",
    "Preference-Applied",
    "Provisional-From",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
]
_DESCRIPTION = """Finished contact-centre reports. Stored data is returned at once, and says until when it is complete. A query
that stored data cannot answer becomes a job: follow `Location` of the 202, or send `Prefer: wait=30`. Errors are problem
details (RFC 9457)."""


def create_app(
    settings: Settings,
    *,
    reports: Mapping[str, Report] | None = None,
    live_reports: Mapping[str, LiveReport] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> FastAPI:
    """Create the HTTP API. It connects when it starts, and closes what it opened when it ends.

    Args:
        settings: Settings of the deployment.
        reports: The declared reports by name; those of the settings' folder by default.
        live_reports: The declared live reports by name, likewise; none if only `reports` are given.
        clock: The current time in UTC.
    """
    served = served_apis() if settings.api.vendor_paths else []
    passed_paths = find_passed_paths(settings) if served else []
    sharing = [api for api in served if api.shared_jobs and settings.api.detail_jobs]
    asked_accounts = {passed.account_id for passed in passed_paths}
    asked_accounts |= {f"{api.vendor}/{name}" for api in sharing for name in settings.accounts.get(api.vendor, ())}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        declared, declared_live = load_all_reports(settings) if reports is None else (reports, {})
        declared_live = declared_live if live_reports is None else live_reports
        async with _open_query_service(settings, declared, declared_live, asked_accounts, clock) as query_service:
            app.state.query_service = query_service
            flushing = (
                query_service.rate_limiter.run(),
                query_service.counters.run(),
                query_service.demand.run(),
                query_service.ad_hoc_requests.run(),
            )
            pushes = [
                LivePush(live, report, settings.tenant).run()
                for report in declared_live.values()
                if settings.api.push and (live := query_service.report_service.live) is not None
            ]
            async with run_in_background(query_service.events.listen(), *flushing, *pushes):
                yield

    if settings.api.audit_log:
        # Whatever the level of other lines: who asks for these wants all of them.
        audit_logger.setLevel(logging.INFO)
    app = FastAPI(
        title="cache_pipeline",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Ours is in routes/pages.py.
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # Its spans of requests are wanted where ours are; otherwise each request would look up whether anything is recorded.
        telemetry={"tracing": settings.traces != "off", "metrics": False, "logs": False},
        # A redirect would repeat the Host header, which a proxy may have changed, and lose the scheme of the proxy.
        redirect_slashes=False,
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.router.routes.extend(vendor_routes(served))
    app.router.routes.extend(shared_job_routes(sharing))
    app.router.routes.extend(pass_through_routes(passed_paths))
    _add_middleware(app, settings, served)
    _handle_errors(app, served)
    _document_problems(app)
    return app


@asynccontextmanager
async def _open_query_service(
    settings: Settings,
    reports: Mapping[str, Report],
    live_reports: Mapping[str, LiveReport],
    asked_accounts: Set[str],
    clock: Callable[[], datetime],
) -> AsyncGenerator[QueryService]:
    """Connect to the stores, the queue and the vendors, and yield the service that answers requests.

    Args:
        settings: Settings of the deployment.
        reports: The declared reports by name.
        live_reports: The declared live reports by name.
        asked_accounts: The vendor accounts to which requests are passed on.
        clock: The current time in UTC.
    """
    async with AsyncExitStack() as stack:
        report_service = await stack.enter_async_context(
            open_service(settings, declared=tuple(reports.values()), clock=clock)
        )
        limits = AnswerLimits(settings.api.max_rows, settings.api.max_answer_bytes)
        report_service = replace(report_service, limits=limits)
        pool = await stack.enter_async_context(connection_pool(settings.required_postgres_url(), _POSTGRES_CONNECTIONS))
        redis = await stack.enter_async_context(open_redis(settings.required_redis_url()))
        vendor_clients = {
            account_id: await stack.enter_async_context(open_cookieless_client(settings, account_id, redis))
            for account_id in sorted(asked_accounts)
        }
        yield QueryService(
            settings=settings,
            report_service=report_service,
            reports=reports,
            live_reports=live_reports,
            quotas=await stack.enter_async_context(open_quotas(settings)),
            jobs=PostgresJobStore(pool),
            queue=await stack.enter_async_context(open_queue(settings)),
            events=RedisJobEvents(redis),
            api_keys=ApiKeyCache(PostgresApiKeyStore(pool)),
            rate_limiter=RateLimiter(RedisRequestCounts(redis), settings.api.requests_per_minute),
            parse_cache=ParseCache(clock),
            counters=ProcessCounters(RedisMetricCounts(redis, clock)),
            idempotency=RedisIdempotencyKeys(redis),
            ad_hoc_requests=AdHocRequests(PostgresAdHocSeries(pool, settings.required_postgres_url())),
            submitted_queries=PostgresSubmittedQueries(pool),
            demand=DemandRecorder(lambda tenant: RedisDemandCounter(redis, tenant, clock)),
            heartbeats=RedisWorkerHeartbeats(redis, settings.jobs.lease_seconds),
            check_redis=partial(check_writable, redis),
            status_queries=PostgresStatusQueries(pool),
            manifest_cache=open_manifest_cache(settings),
            shared_answers=SharedAnswers(RedisSharedAnswers(redis), report_service.single_flight),
            coalescer=await stack.enter_async_context(Coalescer[Any, None]()),
            clock=clock,
            vendor_clients=vendor_clients,
        )


def _add_middleware(app: FastAPI, settings: Settings, served: Sequence[ServedApi]) -> None:
    # The middleware added last is the outermost.
    app.add_middleware(KeyTurns)
    app.add_middleware(KnownUrls)
    app.add_middleware(RequestLimits, max_bytes=settings.api.max_body_bytes)
    app.add_middleware(CorrelationMiddleware)
    if served:
        app.add_middleware(VendorForm, served=served)
    app.add_middleware(ProblemPages)
    app.add_middleware(RequestCounter)
    app.add_middleware(HeadRequests)
    if settings.api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.api.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "X-API-Key",
                "Cache-Control",
                "Content-Type",
                "Idempotency-Key",
                "If-None-Match",
                "Prefer",
                "X-Request-ID",
                "traceparent",
            ],
            expose_headers=_EXPOSED_HEADERS,
            max_age=600,
        )
    app.add_middleware(StrangerTurns)


def _handle_errors(app: FastAPI, served: Sequence[ServedApi]) -> None:
    """Return every error as problem details."""

    async def render_error(_request: Request, error: Exception) -> Response:
        return error_response(error)

    async def render_http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return problem_for(error).response()
        remedy = "leave out the slash at the end" if _ends_in_slash(request) else "see /docs or /openapi.json"
        kind, detail = {
            404: ("no-such-path", _find_reason(served, request.url.path) or f"no such path: {remedy}"),
            405: ("method-not-allowed", "this path does not support this method: use one of those in Allow"),
        }.get(error.status_code, ("http", error.detail))
        headers = {**(error.headers or {}), **_allow(request, error.status_code)}
        return Problem(kind, error.status_code, detail, headers=headers).response()

    async def render_invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return problem_for(error).response()
        media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and media and not media.endswith(("/json", "+json")):
            return Problem(
                "not-json", 415, "the body has another content type: send Content-Type: application/json"
            ).response()
        return _invalid(error).response()

    app.add_exception_handler(RequestValidationError, render_invalid)
    app.add_exception_handler(HTTPException, render_http_error)
    for kind in (CachePipelineError, Exception):
        app.add_exception_handler(kind, render_error)


def _find_reason(served: Sequence[ServedApi], path: str) -> str | None:
    """Return why a path of a vendor's is not served, if there is more to say than that."""
    return next((each.reason for api in served for each in api.unserved if path.startswith(each.prefix)), None)


def _ends_in_slash(request: Request) -> bool:
    return len(request.url.path) > 1 and request.url.path.endswith("/")


def _allow(request: Request, status: int) -> dict[str, str]:
    """Return the Allow header of a 405. Starlette's own lists the methods of the first matching route only."""
    if status != 405:
        return {}
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {
        "Allow": allowed_methods({method for route in matching for method in route.methods or ()}, request.url.path)
    }


def _invalid(error: RequestValidationError) -> Problem:
    """Return the mistakes in a request field by field, without its contents."""
    mistakes = error.errors()
    if any(mistake["type"] == "json_invalid" for mistake in mistakes):
        return Problem("malformed", 400, "the request body is not JSON")
    return Problem(
        "invalid-request",
        422,
        "the request is invalid: see errors",
        tuple(
            {"field": ".".join(str(part) for part in mistake["loc"]), "detail": str(mistake["msg"])}
            for mistake in mistakes
        ),
    )


def _document_problems(app: FastAPI) -> None:
    """Add the schema of problem details to OpenAPI, because no path returns it as its model."""
    generate = app.openapi

    @cache
    def openapi_with_problems() -> dict[str, Any]:
        document = generate()
        components = document["components"]["schemas"]
        problem = schemas.ProblemView.model_json_schema(ref_template="#/components/schemas/{model}", by_alias=True)
        components |= problem.pop("$defs", {})
        components["ProblemView"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        return document

    @cache
    def rendered() -> bytes:
        return json.dumps(openapi_with_problems(), separators=(",", ":")).encode()

    async def answer(_request: Request) -> Response:
        return Response(rendered(), media_type="application/json")

    app.openapi = openapi_with_problems
    # In front of FastAPI's own route, which would render the document for each caller.
    app.router.routes.insert(0, Route("/openapi.json", answer, include_in_schema=False))
