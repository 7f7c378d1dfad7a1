"""The errors and headers of the API as OpenAPI tells them."""

from __future__ import annotations

from typing import Any

from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.api.problems import MEDIA_TYPE
from cache_pipeline.api.schemas import JobView, ReportAnswerBody

Responses = dict[int | str, dict[str, Any]]

_TOLD = {
    400: "The request cannot be read",
    401: "No API key, or not one of ours",
    403: "The key may not do this",
    404: "There is no such thing, or not for this key",
    405: "The method is not allowed here",
    406: "No form of answer that Accept names",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "What is asked makes no sense: an interval, a report's field",
    429: "The key has made too many requests this minute",
    500: "Something went wrong here",
    502: "The vendor refused, failed, or gave an answer that cannot be proven complete",
    503: "Something that the gateway stands on is away",
}

_INSTANT = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string"}


def _headers(**told: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {name.replace("_", "-"): {"description": text, "schema": schema} for name, (text, schema) in told.items()}


def problem_responses(*statuses: int) -> Responses:
    """Errors that a path may answer with; every path may lack a key or meet a fault of ours."""
    problem = {"schema": {"$ref": "#/components/schemas/ProblemView"}}
    return {
        status: {"description": _TOLD[status], "content": {MEDIA_TYPE: problem}}
        for status in sorted({401, 405, 429, 500, 503, *statuses})
    }


ANSWER_HEADERS = _headers(
    ETag=("Of these bytes", _TEXT),
    Cache_Control=("What caches on the way may do", _TEXT),
    Cache_Status=("What this cache did (RFC 9211)", _TEXT),
    Age=("Seconds since the oldest provisional figures were fetched; 0 where all is final", {"type": "integer"}),
    Complete_Through=("Every bucket that ends by then is final", _INSTANT),
    Provisional_From=("Start of the first bucket that may still change", _INSTANT),
)

ACCEPTED_HEADERS = _headers(
    Location=("The job", _TEXT),
    Retry_After=("Seconds until it may be done, by estimate", {"type": "integer"}),
    Cache_Control=("no-store", _TEXT),
    Preference_Applied=("Which preference was kept to", _TEXT),
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
        "description": "Not kept: a job of this meaning is on its way; follow it",
        "model": JobView,
        "headers": ACCEPTED_HEADERS,
    },
    304: {"description": "The caller has these bytes (If-None-Match)", "headers": ANSWER_HEADERS},
    **problem_responses(400, 403, 404, 406, 413, 422, 502),
}
