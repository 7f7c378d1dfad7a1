"""The simulator as an ASGI application."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.simulator.admin import Admin
from cache_pipeline.simulator.clock import Clock, WallClock
from cache_pipeline.simulator.counters import LOGIN_KIND
from cache_pipeline.simulator.cxone import create_cxone
from cache_pipeline.simulator.errors import ApiError
from cache_pipeline.simulator.genesys import create_job_service, genesys_routes
from cache_pipeline.simulator.oauth import answer_token_request
from cache_pipeline.simulator.reportdata import ReportData
from cache_pipeline.simulator.request_gate import Gate, RateLimit, create_window
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.state import Simulator, create_simulator
from cache_pipeline.simulator.state_page import StatePage

_TOKEN_PATHS = ("/oauth/token", "/login/oauth/token")


def _token_route(simulator: Simulator, path: str) -> Route:
    async def endpoint(request: Request) -> Response:
        now = simulator.clock.now()
        response, client_id = await answer_token_request(request, simulator.tokens, simulator.settings, now)
        simulator.counters.count(f"POST {path}", LOGIN_KIND, client_id, response.status_code)
        return response

    return Route(path, endpoint, methods=["POST"])


def _reportdata_gate(simulator: Simulator) -> Gate:
    limit = simulator.settings.reportdata_rate_limit
    return Gate(
        simulator, (RateLimit(create_window(simulator, limit), limit, "token.rate.per.minute"),), reports_remaining=True
    )


def _genesys_gate(simulator: Simulator) -> Gate:
    settings = simulator.settings
    limit, org_limit = settings.genesys_rate_limit, settings.genesys_org_rate_limit
    limits = [RateLimit(create_window(simulator, limit), limit, "client.credentials.token.rate.per.minute")]
    if org_limit is not None:
        limits.append(
            RateLimit(create_window(simulator, org_limit), org_limit, "org.app.user.rate.per.minute", is_shared=True)
        )
    return Gate(simulator, tuple(limits), reports_remaining=False)


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = {
        404: ("not.found", "The requested resource was not found."),
        405: ("bad.request", "The method is not allowed on this resource."),
    }.get(status, ("internal.server.error", "The server encountered an unexpected condition."))
    return ApiError(status, code, message).response(str(uuid4()))


def create_app(settings: SimulatorSettings, clock: Clock | None = None) -> Starlette:
    """Return the ASGI application of a new simulator.

    Args:
        settings: Settings of the organisation and its API.
        clock: The simulator's clock; the machine's own clock by default.

    Raises:
        SimulatorError: The arrivals file cannot be read.
    """
    simulator = create_simulator(settings, clock or WallClock())
    job_service = create_job_service(simulator)
    reportdata, genesys = _reportdata_gate(simulator), _genesys_gate(simulator)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        simulator.workers.shutdown(wait=True, cancel_futures=True)

    return Starlette(
        routes=[
            *(_token_route(simulator, path) for path in _TOKEN_PATHS),
            *ReportData(simulator).routes(reportdata),
            *genesys_routes(job_service, genesys),
            *create_cxone(simulator).routes(),
            *Admin(simulator).routes(),
            *StatePage(simulator, job_service, (("reportdata", reportdata), ("genesys", genesys))).routes(),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _http_error},
        lifespan=lifespan,
    )
