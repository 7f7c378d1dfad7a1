"""OpenAPI descriptions of the errors and response headers."""

from __future__ import annotations

from typing import Any

from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.api.problems import MEDIA_TYPE
from cache_pipeline.api.schemas import JobView, ReportAnswerBody

Responses = dict[int | str, dict[str, Any]]

_DESCRIPTIONS = {
    400: "The request cannot be read",
    401: "The API key is missing or invalid",
    403: "The key may not do this",
    404: "Not found, or not visible to this API key",
    405: "The path does not support this method",
    406: "No format matches Accept",
    413: "The request body is too large",
    414: "The query string is too long",
    415: "The request body is not JSON",
    422: "The query is invalid, for example its interval or a field",
    429: "The key has sent too many requests this minute",
    500: "Internal error",
    502: "The vendor refused the query, failed, or gave an answer that could not be verified as complete",
    503: "A service that the API depends on is unavailable",
}

_INSTANT = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}


def _headers(**headers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name.replace("_", "-"): {"description": description, "schema": schema}
        for name, (description, schema) in headers.items()
    }


def problem_responses(*statuses: int) -> Responses:
    """Return the errors that a path may answer with, including those that every path may answer with."""
    problem = {"schema": {"$ref": "#/components/schemas/ProblemView"}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {MEDIA_TYPE: problem}}
        for status in sorted({401, 405, 414, 429, 500, 503, *statuses})
    }


ANSWER_HEADERS = _headers(
    ETag=("Identifies these bytes", _TEXT),
    Cache_Control=("What browsers and shared caches may do", _TEXT),
    Cache_Status=("What this cache did (RFC 9211)", _TEXT),
    Age=("Seconds since the oldest provisional figures were fetched; 0 if all are final", {"type": "integer"}),
    Complete_Through=("Every bucket that ends by this instant is final", _INSTANT),
    Provisional_From=("Start of the first bucket that may still change", _INSTANT),
)

ACCEPTED_HEADERS = _headers(
    Location=("Path of the job", _TEXT),
    Retry_After=("Estimated seconds until the job is done", {"type": "integer"}),
    Cache_Control=("no-store", _TEXT),
    Preference_Applied=("The preference that was applied", _TEXT),
)

ANSWERS: Responses = {
    200: {
        "description": "The answer",
        "model": ReportAnswerBody,
        "headers": ANSWER_HEADERS,
        "content": {
            MediaFormat.csv: {
                "schema": {"type": "string"},
                "example": "interval_start,interval_end,queue_id,offered\r\n",
            },
            MediaFormat.arrow: {"schema": {"type": "string", "format": "binary"}},
            MediaFormat.parquet: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    202: {
        "description": "Not stored yet: a job fetches the answer; follow it at `Location`",
        "model": JobView,
        "headers": ACCEPTED_HEADERS,
    },
    304: {"description": "Not modified: the caller already has these bytes (If-None-Match)", "headers": ANSWER_HEADERS},
    **problem_responses(400, 403, 404, 406, 413, 422, 502),
}
