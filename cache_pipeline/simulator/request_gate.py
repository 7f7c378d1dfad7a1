"""What every API request passes before its handler: token, faults, rate limits, permission; and the headers of every answer.

Order: an unknown token is refused first and costs nothing; then the faults on demand; then the rate limits, which count
whatever goes on from there, also requests that turn out to be wrong or forbidden.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.simulator.broken_responses import broken_answer
from cache_pipeline.simulator.errors import (
    CORRELATION_HEADER,
    ApiError,
    missing_permission,
    not_found,
    too_many_requests,
    too_many_requests_of_old,
)
from cache_pipeline.simulator.oauth import AccessToken
from cache_pipeline.simulator.rate_limit import FixedWindow, SlidingWindow, Window
from cache_pipeline.simulator.state import Simulator

Handler = Callable[[Request], Awaitable[Response]]
_NAMESPACE = "platform.api"


@dataclass(frozen=True)
class Layer:
    """One of the limits that a request must keep.

    Attributes:
        window: What is left of it.
        limit: Requests in a window.
        key: The vendor's name for it.
        shared: Whether all clients of the organisation share it.
    """

    window: Window
    limit: int
    key: str
    shared: bool = False

    def told(self) -> dict[str, object]:
        """Return the `limit` of an ErrorBody."""
        return {"key": self.key, "namespace": _NAMESPACE, "value": self.limit}


def window_of(simulator: Simulator, limit: int) -> Window:
    """Return a window of the length and kind that the settings name."""
    kind = SlidingWindow if simulator.settings.rate_window_kind == "sliding" else FixedWindow
    return kind(limit, simulator.settings.rate_window_seconds)


def client_of(request: Request) -> str:
    """Return the OAuth client whose token a guarded request bore."""
    return request.state.client_id


@dataclass(frozen=True)
class Gate:
    """The limits of one platform, the first of which its answers may tell the rest of.

    `refuse` makes the answer to what comes too early, by the seconds that are left; by default the 429.
    """

    simulator: Simulator
    layers: tuple[Layer, ...]
    tells_remaining: bool
    refuse: Callable[[int], ApiError] | None = None

    def route(self, method: str, path: str, kind: str, handler: Handler, permissions: Sequence[str] = ()) -> Route:
        """Return the guarded route; `kind` is what the counters call it, and any of `permissions` opens it."""

        async def endpoint(request: Request) -> Response:
            return await self._answer(request, f"{request.method} {path}", kind, handler, permissions)

        return Route(path, endpoint, methods=[method])

    def unknown_route(self, path: str) -> Route:
        """Return the guarded route that answers 404 to every method; it belongs behind all others."""

        async def handler(request: Request) -> Response:
            raise not_found(f"{request.method} {request.url.path} is not an endpoint of this simulator")

        async def endpoint(request: Request) -> Response:
            return await self._answer(request, f"{request.method} {path}", "unknown", handler, ())

        return Route(path, endpoint, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])

    async def _answer(
        self, request: Request, call: str, kind: str, handler: Handler, permissions: Sequence[str]
    ) -> Response:
        context_id = str(uuid4())
        token: AccessToken | None = None
        remaining: int | None = None
        try:
            now = self.simulator.clock.now()
            token = self.simulator.tokens.check(request.headers.get("authorization"), now)
            request.state.client_id = token.client_id
            remaining = self._admit(token, now)
            self._strike()
            self._permit(token, permissions)
            response = await handler(request)
        except ApiError as error:
            response = error.response(context_id)
        response.headers[CORRELATION_HEADER] = context_id
        if self.tells_remaining and token is not None:
            response.headers["X-RateLimit-Remaining"] = str(self._told(remaining, response, token))
        client_id = token.client_id if token else None
        self.simulator.counters.count(call, kind, client_id, response.status_code)
        return broken_answer(response, self.simulator.faults) if token is not None else response

    def remaining(self, client_id: str) -> int:
        """Return what is left of the first limit for the token of a client that has used most of it."""
        now = self.simulator.clock.now()
        texts = [token.text for token in self.simulator.tokens.living(now) if token.client_id == client_id]
        keys = [client_id] if self.simulator.settings.rate_limit_scope == "client" else texts
        return min((self.layers[0].window.remaining(key, now) for key in keys), default=self.layers[0].limit)

    def _told(self, remaining: int | None, response: Response, token: AccessToken) -> int:
        if remaining is not None:
            return remaining
        if response.status_code == 429:
            return 0
        return self.layers[0].window.remaining(self._key(token), self.simulator.clock.now())

    def _key(self, token: AccessToken) -> str:
        return token.client_id if self.simulator.settings.rate_limit_scope == "client" else token.text

    def _permit(self, token: AccessToken, permissions: Sequence[str]) -> None:
        granted = self.simulator.settings.client_permissions.get(token.client_id)
        if granted is not None and permissions and granted.isdisjoint(permissions):
            raise missing_permission(permissions)

    def _strike(self) -> None:
        faults = self.simulator.faults
        if faults.take("server_errors"):
            status = faults.current.server_error_status
            code, message = _SERVER_ERRORS[status]
            raise ApiError(status, code, message)

    def _admit(self, token: AccessToken, now: float) -> int:
        """Count the request against every limit, or against none; returns what is left of the first."""
        faults, settings = self.simulator.faults, self.simulator.settings
        if faults.take("revoke_tokens"):
            self.simulator.tokens.revoke(token)
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if faults.take("unauthorized"):
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if faults.take("reject_with_429"):
            raise too_many_requests_of_old(self.layers[0].limit, int(settings.rate_window_seconds))
        if faults.take("throttle"):
            raise too_many_requests(faults.current.throttle_seconds)
        keys = [_NAMESPACE if layer.shared else self._key(token) for layer in self.layers]
        for layer, key in zip(self.layers, keys, strict=True):
            if wait := layer.window.wait(key, now):
                self.simulator.counters.exceed(token.client_id)
                if self.refuse is not None:
                    raise self.refuse(wait)
                raise too_many_requests(wait, layer.told() if settings.tells_limit else None)
        verdicts = [layer.window.ask(key, now) for layer, key in zip(self.layers, keys, strict=True)]
        self.simulator.counters.fill(token.client_id, 1 - verdicts[0].remaining / self.layers[0].limit)
        return verdicts[0].remaining


_SERVER_ERRORS = {
    500: ("internal.server.error", "The server encountered an unexpected condition."),
    502: ("bad.gateway", "The server received an invalid response from an upstream server."),
    503: ("service.unavailable", "The service is temporarily unavailable."),
    504: ("request.timeout", "The request timed out."),
}
