"""What can go wrong: in starting the simulator, and in a request (the vendor's ErrorBody)."""

from starlette.responses import JSONResponse

CORRELATION_HEADER = "ININ-Correlation-Id"


class SimulatorError(Exception):
    """The simulator cannot start; the message is one line that says what, where and how to mend it."""


class ApiError(Exception):
    """A request is refused with the vendor's ErrorBody.

    Attributes:
        status: HTTP status.
        code: The vendor's dotted error code, such as `invalid.value`.
        message: One sentence for a person.
        headers: Sent beside the body.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def response(self, context_id: str) -> JSONResponse:
        """Return the ErrorBody answer whose `contextId` is `context_id`."""
        body = {
            "message": self.message,
            "code": self.code,
            "status": self.status,
            "contextId": context_id,
            "details": [],
            "errors": [],
        }
        return JSONResponse(body, status_code=self.status, headers=self.headers | {CORRELATION_HEADER: context_id})


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


def not_found(message: str) -> ApiError:
    """Return a 404 `not.found`."""
    return ApiError(404, "not.found", message)
