"""Routes for operators: health, readiness, metrics and the vendor quota."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import RedirectResponse

from cache_pipeline.api import schemas
from cache_pipeline.api.dependencies import Caller, QueryServiceDependency
from cache_pipeline.api.monitoring.health import check_dependencies
from cache_pipeline.api.monitoring.prometheus import render_metrics
from cache_pipeline.api.openapi import problem_responses
from cache_pipeline.query.lane import Lane

router = APIRouter(tags=["operations"])


@router.get("/", include_in_schema=False)
async def redirect_to_docs() -> RedirectResponse:
    """Redirect to the documentation page."""
    return RedirectResponse("/docs")


@router.get("/healthz", summary="Check health", operation_id="health")
async def health() -> dict[str, bool]:
    """Return 200 while the process serves."""
    return {"ok": True}


@router.get(
    "/readyz",
    responses={503: {"model": schemas.Readiness, "description": "PostgreSQL is unavailable"}},
    summary="Check readiness",
    operation_id="readiness",
)
async def readiness(query_service: QueryServiceDependency, response: Response) -> schemas.Readiness:
    """Return the state of each dependency. The API is ready if PostgreSQL is; the vendor is not a dependency."""
    found = await check_dependencies(query_service)
    # Without Redis, history answers. Without the broker, workers sweep the job table. Both are slower, but nothing is lost.
    # If they counted, a load balancer would take all API processes out of service at once.
    is_ready = all(dependency.ok for dependency in found if dependency.name == "postgresql")
    response.status_code = 200 if is_ready else 503
    response.headers["Cache-Control"] = "no-store"
    return schemas.Readiness(ok=is_ready, dependencies=found)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus text format, or OpenMetrics",
        },
    },
    summary="Get metrics",
    operation_id="metrics",
)
async def metrics(query_service: QueryServiceDependency, accept: Annotated[str | None, Header()] = None) -> Response:
    """Return the metrics of the whole deployment. Metrics of an unavailable store are left out.

    Labels are few and bounded: no API key, no query, no tenant.
    """
    body, content_type = await render_metrics(query_service, accept)
    return Response(body, media_type=content_type, headers={"Cache-Control": "no-store"})


@router.get("/v1/quota", responses=problem_responses(), summary="Get the vendor quota", operation_id="readQuota")
async def quota(query_service: QueryServiceDependency, _caller: Caller, response: Response) -> schemas.QuotaView:
    """Return the state of each OAuth client, what each lane may send now, further limits, and the month's requests."""
    response.headers["Cache-Control"] = "no-store"
    clients: list[schemas.ClientQuotaView] = []
    for account, (policy, shared) in query_service.quotas.items():
        for client in await shared.snapshot():
            remaining = {
                str(lane): 0 if client.throttled_for_s else max(0, policy.slots(lane) - client.used) for lane in Lane
            }
            clients.append(
                schemas.ClientQuotaView(
                    account=account,
                    client=client.client_id,
                    state=client.state,
                    limit=policy.limit,
                    window_seconds=policy.window_seconds,
                    used=client.used,
                    in_flight=client.in_flight,
                    remaining=remaining,
                    throttled_for_seconds=client.throttled_for_s,
                    granted_total=client.granted_total,
                    rejected_total=client.rejected_total,
                )
            )
    limits: list[schemas.LimitView] = []
    months: list[schemas.MonthView] = []
    for account, (_, shared) in query_service.quotas.items():
        limits += [
            schemas.LimitView(
                account=account,
                name=each.name,
                counts=each.counts,
                limit=each.limit,
                window_seconds=each.window_seconds,
                used=each.used,
            )
            for each in await shared.shared_limits()
        ]
        if (month := await shared.allotment(query_service.report_service.clock())) is not None:
            months.append(
                schemas.MonthView(
                    account=account,
                    allotted=month.monthly,
                    used=month.used,
                    expected=month.expected,
                    runs_out_at=month.runs_out_at,
                )
            )
    return schemas.QuotaView(clients=clients, limits=limits, months=months)
