"""Errors as problem details (RFC 9457): what is wrong, where, and how to fix it; never a stack trace or a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from starlette.responses import JSONResponse

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.storage.known_errors import known_error

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_TYPES = "urn:cache-pipeline:problem:"


class _ProblemResponse(JSONResponse):
    """Problem details. Their text may quote a request, in which JSON allows half of a surrogate pair; UTF-8 does not."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        # In a JSON string, the backslash and what follows it are the escape of the same character.
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


# Not frozen, because exception handlers may set the traceback, as Starlette does after each response.
@dataclass(eq=False)
class Problem(CachePipelineError):
    """One error, as the caller receives it.

    Attributes:
        kind: Last part of its ``type``, stable, for programs; its ``title`` is the same in words.
        status: HTTP status.
        detail: Explanation for people.
        errors: Each ``{"field", "detail"}`` where several things are wrong.
        headers: Headers of the response.
    """

    kind: str
    status: int
    detail: str
    errors: tuple[Mapping[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Set the exception's text."""
        super().__init__(self.detail)

    def document(self) -> dict[str, Any]:
        """Return the body."""
        document: dict[str, Any] = {
            "type": f"{_TYPES}{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [dict(error) for error in self.errors]
        return document

    def response(self) -> JSONResponse:
        """Return the response, which no cache may store. Browsers get it as a page, see ``problem_pages``."""
        headers = {"Cache-Control": "no-store", "Vary": "Accept", **self.headers}
        return _ProblemResponse(self.document(), self.status, headers)


def error_response(error: BaseException) -> JSONResponse:
    """Return the response to an error; log those of a store or driver, whose text the caller does not see."""
    if not isinstance(error, CachePipelineError):
        logger.warning("a request could not be served: %s", type(error).__name__)
    return problem_for(error).response()


def problem_for(error: BaseException) -> Problem:
    """Return an error as its caller may see it: unexpected ones in general words, since their text may hold secrets."""
    if isinstance(error, Problem):
        return error
    known = known_error(error)
    if known is None:
        return Problem("internal", 500, "something went wrong in the server; its log has the reason")
    return Problem(
        known.problem_type,
        known.http_status,
        known.public_text,
        tuple({"field": field, "detail": problem} for field, problem in known.field_errors),
        {"Retry-After": "5"} if known.retryable and known.http_status == 503 else {},
    )
