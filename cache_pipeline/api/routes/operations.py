"""Routes for operators: health, readiness, metrics and the vendor quota."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from cache_pipeline.api import schemas
from cache_pipeline.api.dependencies import Caller, Operator, QueryServiceDependency
from cache_pipeline.api.monitoring.health import check_dependencies
from cache_pipeline.api.monitoring.prometheus import render_metrics, wants_open_metrics
from cache_pipeline.api.monitoring.status import read_quota, read_status
from cache_pipeline.api.openapi import problem_responses

router = APIRouter(tags=["operations"])


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
    found = await query_service.shared_results.get(
        "readiness", query_service.coalescer, lambda: check_dependencies(query_service)
    )
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
    is_open = wants_open_metrics(accept)
    body, content_type = await query_service.shared_results.get(
        f"metrics {is_open}", query_service.coalescer, lambda: render_metrics(query_service, is_open=is_open)
    )
    return Response(body, media_type=content_type, headers={"Cache-Control": "no-store"})


@router.get("/v1/quota", responses=problem_responses(), summary="Get the vendor quota", operation_id="readQuota")
async def quota(query_service: QueryServiceDependency, _caller: Caller, response: Response) -> schemas.QuotaView:
    """Return the state of each OAuth client, what each lane may send now, further limits, and the month's requests."""
    response.headers["Cache-Control"] = "no-store"
    return await read_quota(query_service)


@router.get(
    "/v1/status",
    responses=problem_responses(403, 422),
    summary="Get the state of the deployment",
    operation_id="readStatus",
)
async def status(
    query_service: QueryServiceDependency,
    operator: Operator,
    response: Response,
    days: Annotated[int, Query(ge=1, le=400, description="Number of local days to show")] = 35,
) -> schemas.StatusView:
    """Return what history holds of each report, quota, jobs, and what today's requests cost. Needs a key with `--operator`."""
    response.headers["Cache-Control"] = "no-store"
    return await read_status(query_service, operator.tenant, days)
