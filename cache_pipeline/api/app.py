"""Assembles the HTTP API."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match

from cache_pipeline.aio import run_in_background
from cache_pipeline.api import schemas as wire
from cache_pipeline.api.auth import ApiKeyCache, ApiKeyStore
from cache_pipeline.api.hot_reads import HotReads
from cache_pipeline.api.jobs.heartbeat import WorkerHeartbeats
from cache_pipeline.api.jobs.idempotency import IdempotencyStore
from cache_pipeline.api.jobs.job_events import JobEvents
from cache_pipeline.api.jobs.job_store import JobStore, connection_pool
from cache_pipeline.api.jobs.queue import JobQueue, open_queue
from cache_pipeline.api.middleware import BodyLimitMiddleware, CorrelationMiddleware, HeadRequests, allowed_methods
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.monitoring.demand_counter import DemandRecorder
from cache_pipeline.api.monitoring.manifest_cache import open_manifest_cache
from cache_pipeline.api.monitoring.status_queries import StatusQueries
from cache_pipeline.api.parsing import ParseCache
from cache_pipeline.api.problems import Problem, problem_for
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.rate_limit import RateLimiter
from cache_pipeline.api.routes import jobs as jobs_api
from cache_pipeline.api.routes import operations as operations_api
from cache_pipeline.api.routes import reports as reports_api
from cache_pipeline.bootstrap import load_reports, open_quotas, open_service, utc_now
from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import Settings
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.redis.demand import DemandCounter

_LOG = logging.getLogger(__name__)
_ROUTERS = (reports_api.router, jobs_api.router, operations_api.router)
_CONNECTIONS = 12
_EXPOSED = [
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
_ABOUT = """Finished contact-centre reports. What is kept is answered at once, and says until when it is complete; what is
not becomes a job: follow `Location` of the 202, or ask with `Prefer: wait=30`. Errors are problem details (RFC 9457)."""


def create_app(
    settings: Settings,
    *,
    service: ReportService | None = None,
    queue: JobQueue | None = None,
    reports: Mapping[str, Report] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> FastAPI:
    """The HTTP API of some settings; it connects when it starts, and closes what it opened when it ends.

    Args:
        settings: of the deployment.
        service: the engine; by default as the settings say, and likewise ``queue`` and ``reports``.
        queue: where jobs go.
        reports: the declarations.
        clock: the time, in UTC.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        known = load_reports(settings) if reports is None else reports
        async with AsyncExitStack() as stack:
            engine = service or await stack.enter_async_context(open_service(settings, declared=tuple(known.values())))
            pool = await stack.enter_async_context(connection_pool(settings.required_postgres_url(), _CONNECTIONS))
            gateway = QueryService(
                settings=settings,
                service=engine,
                reports=known,
                quotas=await stack.enter_async_context(open_quotas(settings)),
                jobs=JobStore(pool),
                queue=queue or await stack.enter_async_context(open_queue(settings)),
                events=JobEvents(engine.redis),
                keys=ApiKeyCache(ApiKeyStore(pool)),
                limits=RateLimiter(engine.redis, settings.gateway.requests_per_minute),
                questions=ParseCache(clock),
                meter=ProcessCounters(engine.redis),
                repeats=IdempotencyStore(engine.redis),
                tally=DemandRecorder(lambda tenant: DemandCounter(engine.redis, tenant, clock)),
                presence=WorkerHeartbeats(engine.redis, settings.jobs.lease_seconds),
                standing=StatusQueries(pool),
                published=open_manifest_cache(settings),
                sharing=await stack.enter_async_context(Coalescer[Any, None]()),
                clock=clock,
            )
            app.state.gateway = gateway
            counting = (gateway.limits.run(), gateway.meter.run(), gateway.tally.run())
            async with run_in_background(gateway.events.listen(), *counting):
                yield

    app = FastAPI(
        title="cache_pipeline",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for router in _ROUTERS:
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, most_bytes=settings.gateway.max_body_bytes)
    app.add_middleware(CorrelationMiddleware)
    app.add_middleware(HotReads)
    app.add_middleware(HeadRequests)
    if settings.gateway.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.gateway.cors_origins),
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
            expose_headers=_EXPOSED,
            max_age=600,
        )
    _tell_problems(app)
    _document(app)
    return app


def _tell_problems(app: FastAPI) -> None:
    """Every error as problem details."""

    async def told(_request: Request, error: Exception) -> Response:
        return problem_for(error).response()

    async def unavailable(_request: Request, error: Exception) -> Response:
        _LOG.warning("a request could not be served: %s", type(error).__name__)
        return problem_for(error).response()

    async def refused(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return problem_for(error).response()
        kind, detail = {
            404: ("no-such-path", "there is nothing at this path: see /docs, or /openapi.json"),
            405: ("method-not-allowed", "this path has other methods"),
        }.get(error.status_code, ("http", error.detail))
        headers = {**(error.headers or {}), **_allow(request, error.status_code)}
        return Problem(kind, error.status_code, detail, headers=headers).response()

    async def invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return problem_for(error).response()
        media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and media and not media.endswith(("/json", "+json")):
            return Problem("not-json", 415, "a question is sent as Content-Type: application/json").response()
        return _invalid(error).response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    for kind in (RedisError, psycopg.OperationalError, PoolTimeout):
        app.add_exception_handler(kind, unavailable)
    for kind in (CachePipelineError, Exception):
        app.add_exception_handler(kind, told)


def _allow(request: Request, status: int) -> dict[str, str]:
    """Which methods a path has, told where another was used: Starlette tells those of its first route alone."""
    if status != 405:
        return {}
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {"Allow": allowed_methods({method for route in here for method in route.methods or ()}, request.url.path)}


def _invalid(error: RequestValidationError) -> Problem:
    """What is wrong with a request, field by field, without what was in it."""
    mistakes = error.errors()
    if any(mistake["type"] == "json_invalid" for mistake in mistakes):
        return Problem("malformed", 400, "the body is not JSON")
    return Problem(
        "invalid-request",
        422,
        "the request does not fit: see errors",
        tuple(
            {"field": ".".join(str(part) for part in mistake["loc"]), "detail": str(mistake["msg"])}
            for mistake in mistakes
        ),
    )


def _document(app: FastAPI) -> None:
    """Put the model of problems, which no path returns by itself, where OpenAPI refers to it."""
    plain = app.openapi

    def documented() -> dict[str, Any]:
        document = plain()
        schemas = document["components"]["schemas"]
        problem = wire.ProblemView.model_json_schema(ref_template="#/components/schemas/{model}", by_alias=True)
        schemas |= problem.pop("$defs", {})
        schemas["ProblemView"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        return document

    app.openapi = documented
