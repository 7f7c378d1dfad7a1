"""Checks before every API handler (token, faults, rate limits, permission) and the headers of every response.

An unknown token is refused first and does not count against a limit. Then come the configured faults, then the rate limits,
which count every later request, even an invalid or forbidden one.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.simulator.broken_responses import apply_response_faults
from cache_pipeline.simulator.errors import (
    CORRELATION_HEADER,
    ApiError,
    missing_permission,
    not_found,
    too_many_requests,
    too_many_requests_without_retry_after,
)
from cache_pipeline.simulator.oauth import AccessToken
from cache_pipeline.simulator.rate_limit import FixedWindow, SlidingWindow, Window
from cache_pipeline.simulator.state import Simulator

Handler = Callable[[Request], Awaitable[Response]]
_NAMESPACE = "platform.api"


@dataclass(frozen=True)
class RateLimit:
    """One rate limit of a request.

    Attributes:
        window: Counts the accepted requests.
        limit: Requests allowed in a window.
        key: The vendor's name for the limit.
        is_shared: Whether all clients of the organisation share it.
    """

    window: Window
    limit: int
    key: str
    is_shared: bool = False

    def as_json(self) -> dict[str, object]:
        """Return the `limit` field of an ErrorBody."""
        return {"key": self.key, "namespace": _NAMESPACE, "value": self.limit}


def create_window(simulator: Simulator, limit: int) -> Window:
    """Return a window of the length and kind in the settings."""
    kind = SlidingWindow if simulator.settings.rate_window_kind == "sliding" else FixedWindow
    return kind(limit, simulator.settings.rate_window_seconds)


def client_id_of(request: Request) -> str:
    """Return the OAuth client of an authenticated request."""
    return request.state.client_id


@dataclass(frozen=True)
class Gate:
    """The checks of one platform's requests.

    Attributes:
        simulator: The simulator.
        limits: The rate limits; responses may report the remaining requests of the first one.
        reports_remaining: Whether responses carry the remaining requests in a header.
        refuse: Builds the response to a request over a limit from the seconds to wait; a 429 by default.
    """

    simulator: Simulator
    limits: tuple[RateLimit, ...]
    reports_remaining: bool
    refuse: Callable[[int], ApiError] | None = None

    def route(self, method: str, path: str, kind: str, handler: Handler, permissions: Sequence[str] = ()) -> Route:
        """Return a checked route; `kind` is its name in the counters, and any of `permissions` is sufficient."""

        async def endpoint(request: Request) -> Response:
            return await self._handle(request, f"{request.method} {path}", kind, handler, permissions)

        return Route(path, endpoint, methods=[method])

    def unknown_route(self, path: str) -> Route:
        """Return a checked route that answers 404 to every method; it must come after all others."""

        async def handler(request: Request) -> Response:
            raise not_found(f"{request.method} {request.url.path} is not an endpoint of this simulator")

        async def endpoint(request: Request) -> Response:
            return await self._handle(request, f"{request.method} {path}", "unknown", handler, ())

        return Route(path, endpoint, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])

    async def _handle(
        self, request: Request, call: str, kind: str, handler: Handler, permissions: Sequence[str]
    ) -> Response:
        context_id = str(uuid4())
        token: AccessToken | None = None
        remaining: int | None = None
        try:
            now = self.simulator.clock.now()
            token = self.simulator.tokens.check(request.headers.get("authorization"), now)
            request.state.client_id = token.client_id
            remaining = self._check_limits(token, now)
            self._raise_server_error_fault()
            self._check_permission(token, permissions)
            response = await handler(request)
        except ApiError as error:
            response = error.response(context_id)
        response.headers[CORRELATION_HEADER] = context_id
        if self.reports_remaining and token is not None:
            response.headers["X-RateLimit-Remaining"] = str(self._remaining_header(remaining, response, token))
        client_id = token.client_id if token else None
        self.simulator.counters.count(call, kind, client_id, response.status_code)
        return apply_response_faults(response, self.simulator.faults) if token is not None else response

    def remaining(self, client_id: str) -> int:
        """Return the remaining requests of the first limit, for the most used token of a client."""
        now = self.simulator.clock.now()
        texts = [token.text for token in self.simulator.tokens.valid_tokens(now) if token.client_id == client_id]
        keys = [client_id] if self.simulator.settings.rate_limit_scope == "client" else texts
        return min((self.limits[0].window.remaining(key, now) for key in keys), default=self.limits[0].limit)

    def _remaining_header(self, remaining: int | None, response: Response, token: AccessToken) -> int:
        if remaining is not None:
            return remaining
        if response.status_code == 429:
            return 0
        return self.limits[0].window.remaining(self._key(token), self.simulator.clock.now())

    def _key(self, token: AccessToken) -> str:
        return token.client_id if self.simulator.settings.rate_limit_scope == "client" else token.text

    def _check_permission(self, token: AccessToken, permissions: Sequence[str]) -> None:
        granted = self.simulator.settings.client_permissions.get(token.client_id)
        if granted is not None and permissions and granted.isdisjoint(permissions):
            raise missing_permission(permissions)

    def _raise_server_error_fault(self) -> None:
        faults = self.simulator.faults
        if faults.take("request_timeouts"):
            raise ApiError(408, "client.timeout", "The client timed out while sending the request.")
        if faults.take("server_errors"):
            status = faults.current.server_error_status
            code, message = _SERVER_ERRORS[status]
            raise ApiError(status, code, message)

    def _check_limits(self, token: AccessToken, now: float) -> int:
        """Count the request against all limits or none. Return the remaining requests of the first."""
        faults, settings = self.simulator.faults, self.simulator.settings
        if faults.take("revoke_tokens"):
            self.simulator.tokens.revoke(token)
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if faults.take("unauthorized"):
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if faults.take("reject_with_429"):
            raise too_many_requests_without_retry_after(self.limits[0].limit, int(settings.rate_window_seconds))
        if faults.take("throttle"):
            raise too_many_requests(faults.current.throttle_seconds)
        keys = [_NAMESPACE if limit.is_shared else self._key(token) for limit in self.limits]
        for limit, key in zip(self.limits, keys, strict=True):
            if wait := limit.window.retry_after(key, now):
                self.simulator.counters.count_over_limit(token.client_id)
                if self.refuse is not None:
                    raise self.refuse(wait)
                raise too_many_requests(wait, limit.as_json() if settings.report_limit_in_429 else None)
        decisions = [limit.window.acquire(key, now) for limit, key in zip(self.limits, keys, strict=True)]
        self.simulator.counters.record_usage(token.client_id, 1 - decisions[0].remaining / self.limits[0].limit)
        return decisions[0].remaining


_SERVER_ERRORS = {
    500: ("internal.server.error", "The server encountered an unexpected condition."),
    502: ("bad.gateway", "The server received an invalid response from an upstream server."),
    503: ("service.unavailable", "The service is temporarily unavailable."),
    504: ("request.timeout", "The request timed out."),
}
