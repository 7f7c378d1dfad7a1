"""What every API request passes before its handler: token, faults, rate limit; and the headers of every answer.

Order: an unknown token is refused first and costs nothing; then the faults on demand; then the rate limit, which counts
whatever goes on from there, also requests that turn out to be wrong.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.simulator.errors import CORRELATION_HEADER, ApiError, not_found
from cache_pipeline.simulator.oauth import AccessToken
from cache_pipeline.simulator.rate_limit import SlidingWindow
from cache_pipeline.simulator.state import Simulator

Handler = Callable[[Request], Awaitable[Response]]

_REJECTION_HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Strict-Transport-Security": "max-age=600; includeSubDomains",
}


@dataclass(frozen=True)
class Gate:
    """The budget of one platform, and whether its answers tell what is left of it."""

    simulator: Simulator
    window: SlidingWindow
    limit: int
    tells_remaining: bool

    def route(self, method: str, path: str, kind: str, handler: Handler) -> Route:
        """Return the guarded route; `kind` is what the counters call it."""

        async def endpoint(request: Request) -> Response:
            return await self._answer(request, f"{request.method} {path}", kind, handler)

        return Route(path, endpoint, methods=[method])

    def unknown_route(self, path: str) -> Route:
        """Return the guarded route that answers 404 to every method; it belongs behind all others."""

        async def handler(request: Request) -> Response:
            raise not_found(f"{request.method} {request.url.path} is not an endpoint of this simulator")

        async def endpoint(request: Request) -> Response:
            return await self._answer(request, f"{request.method} {path}", "unknown", handler)

        return Route(path, endpoint, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])

    async def _answer(self, request: Request, call: str, kind: str, handler: Handler) -> Response:
        context_id = str(uuid4())
        token: AccessToken | None = None
        remaining: int | None = None
        try:
            now = self.simulator.clock.now()
            token = self.simulator.tokens.check(request.headers.get("authorization"), now)
            remaining = self._admit(self._key(token), now)
            if self.simulator.faults.take("server_errors"):
                raise ApiError(503, "service.unavailable", "The service is temporarily unavailable.")
            response = await handler(request)
        except ApiError as error:
            response = error.response(context_id)
        response.headers[CORRELATION_HEADER] = context_id
        if self.tells_remaining and token is not None:
            response.headers["X-RateLimit-Remaining"] = str(self._told(remaining, response, token))
        client_id = token.client_id if token else None
        self.simulator.counters.count(call, kind, client_id, response.status_code)
        return response

    def _told(self, remaining: int | None, response: Response, token: AccessToken) -> int:
        if remaining is not None:
            return remaining
        return 0 if response.status_code == 429 else self.window.remaining(self._key(token), self.simulator.clock.now())

    def _key(self, token: AccessToken) -> str:
        return token.client_id if self.simulator.settings.rate_limit_scope == "client" else token.text

    def _admit(self, key: str, now: float) -> int:
        faults = self.simulator.faults
        if faults.take("unauthorized"):
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if faults.take("reject_with_429"):
            seconds = int(self.simulator.settings.rate_window_seconds)
            message = f"Rate limit exceeded the maximum [{self.limit}] requests within [{seconds}] seconds"
            raise ApiError(429, "too.many.requests", message, _REJECTION_HEADERS)
        verdict = self.window.ask(key, now)
        if not verdict.accepted:
            message = f"Rate limit exceeded the maximum. Retry the request in [{verdict.retry_after}] seconds"
            headers = _REJECTION_HEADERS | {"Retry-After": str(verdict.retry_after)}
            raise ApiError(429, "too.many.requests.retry.after", message, headers)
        return verdict.remaining
