"""Errors of the simulator: failures to start, and refused requests (the vendor's ErrorBody)."""

from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse

CORRELATION_HEADER = "ININ-Correlation-Id"


class SimulatorError(Exception):
    """The simulator cannot start; the message is one line with the cause, the place and the remedy."""


class ApiError(Exception):
    """A request is refused with the vendor's ErrorBody.

    Attributes:
        status: HTTP status.
        code: The vendor's dotted error code, such as `invalid.value`.
        message: One sentence for people.
        headers: Additional response headers.
        limit: `key`, `namespace` and `value` of the limit that was reached, if a 429 names it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: dict[str, str] | None = None,
        limit: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        self.limit = limit

    def response(self, context_id: str) -> JSONResponse:
        """Return the response with an ErrorBody whose `contextId` is `context_id`."""
        body: dict[str, object] = {
            "message": self.message,
            "code": self.code,
            "status": self.status,
            "contextId": context_id,
            "details": [],
            "errors": [],
        }
        if self.limit is not None:
            body["limit"] = dict(self.limit)
        return JSONResponse(body, status_code=self.status, headers=self.headers | {CORRELATION_HEADER: context_id})


_REJECTION_HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Strict-Transport-Security": "max-age=600; includeSubDomains",
}


def too_many_requests(retry_after: int, limit: Mapping[str, object] | None = None) -> ApiError:
    """Return a 429 with Retry-After."""
    message = f"Rate limit exceeded the maximum. Retry the request in [{retry_after}] seconds"
    headers = _REJECTION_HEADERS | {"Retry-After": str(retry_after)}
    return ApiError(429, "too.many.requests.retry.after", message, headers, limit)


def too_many_requests_without_retry_after(requests: int, seconds: int) -> ApiError:
    """Return a 429 without Retry-After, with the message of the vendor's older responses."""
    message = f"Rate limit exceeded the maximum [{requests}] requests within [{seconds}] seconds"
    return ApiError(429, "too.many.requests", message, _REJECTION_HEADERS)


def too_large(status: int) -> ApiError:
    """Return the refusal of a query because of its size: 400, 413 or 504."""
    code, message = _SIZE_REFUSALS[status]
    return ApiError(status, code, message)


_SIZE_REFUSALS = {
    400: ("bad.request", "The query would return too many results. Reduce the interval and try again."),
    413: ("request.entity.too.large", "The result of the query is too large. Reduce the interval and try again."),
    504: ("request.timeout", "The request timed out."),
}


def bad_request(message: str) -> ApiError:
    """Return a 400 `bad.request`."""
    return ApiError(400, "bad.request", message)


def invalid_value(value: object, field: str, allowable: str) -> ApiError:
    """Return a 400 `invalid.value` in the vendor's words."""
    return ApiError(
        400,
        "invalid.value",
        f"Value [{value}] is not valid for field type [{field}]. Allowable values are: {allowable}",
    )


def missing_permission(permissions: Sequence[str]) -> ApiError:
    """Return a 403 that names the permissions of which any one is sufficient."""
    message = (
        "Unable to perform the requested action. You must have at least one of the following permissions assigned: "
        f"[{', '.join(permissions)}]"
    )
    return ApiError(403, "missing.any.permissions", message)


def not_found(message: str) -> ApiError:
    """Return a 404 `not.found`."""
    return ApiError(404, "not.found", message)
