"""For operators: is it alive, is it ready, what is the quota."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import RedirectResponse

from cache_pipeline.api import schemas as wire
from cache_pipeline.api.dependencies import Caller, TheGateway
from cache_pipeline.api.monitoring.health import dependencies
from cache_pipeline.api.monitoring.prometheus import render_metrics
from cache_pipeline.api.openapi import problem_responses
from cache_pipeline.query.lane import Lane

router = APIRouter(tags=["operations"])


@router.get("/", include_in_schema=False)
async def front_door() -> RedirectResponse:
    """To the page that tells of every path."""
    return RedirectResponse("/docs")


@router.get("/healthz", summary="Is it alive", operation_id="health")
async def health() -> dict[str, bool]:
    """200 while the process serves."""
    return {"ok": True}


@router.get(
    "/readyz",
    responses={503: {"model": wire.Readiness, "description": "PostgreSQL is away"}},
    summary="Is it ready",
    operation_id="readiness",
)
async def readiness(gateway: TheGateway, response: Response) -> wire.Readiness:
    """Each thing that answers stand on, by itself; ready is who has PostgreSQL. What is kept is served without the vendor."""
    found = await dependencies(gateway)
    # Without Redis history answers, and without its broker the queue is swept by the workers: slower, and nothing is lost. Were
    # that not ready, all gateways would be taken out of service at once.
    ok = all(dependency.ok for dependency in found if dependency.name == "postgresql")
    response.status_code = 200 if ok else 503
    response.headers["Cache-Control"] = "no-store"
    return wire.Readiness(ok=ok, dependencies=found)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "For Prometheus, or OpenMetrics",
        },
    },
    summary="Read the metrics",
    operation_id="metrics",
)
async def metrics(gateway: TheGateway, accept: Annotated[str | None, Header()] = None) -> Response:
    """Labels are few and bounded: no key, no query, no tenant. What a store that is away would say is left out."""
    body, content_type = await render_metrics(gateway, accept)
    return Response(body, media_type=content_type, headers={"Cache-Control": "no-store"})


@router.get("/v1/quota", responses=problem_responses(), summary="See the vendor's quota", operation_id="readQuota")
async def quota(gateway: TheGateway, _caller: Caller, response: Response) -> wire.QuotaView:
    """Each OAuth client's state, and what each lane could send now."""
    response.headers["Cache-Control"] = "no-store"
    clients: list[wire.ClientQuotaView] = []
    for platform, (policy, shared) in gateway.quotas.items():
        for client in await shared.snapshot():
            room = {
                str(lane): 0 if client.throttled_for_s else max(0, policy.slots(lane) - client.used) for lane in Lane
            }
            clients.append(
                wire.ClientQuotaView(
                    platform=platform,
                    client=client.client_id,
                    state=client.state,
                    limit=policy.limit,
                    window_seconds=policy.window_seconds,
                    used=client.used,
                    in_flight=client.in_flight,
                    remaining=room,
                    throttled_for_seconds=client.throttled_for_s,
                    granted_total=client.granted_total,
                    rejected_total=client.rejected_total,
                )
            )
    return wire.QuotaView(clients=clients)
