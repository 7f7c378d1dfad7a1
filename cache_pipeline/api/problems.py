"""Errors as problem details (RFC 9457): what is wrong, where, and how to mend it; never a stack trace or a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from starlette.responses import JSONResponse

from cache_pipeline.fetch.completeness_checker import IncompleteAnswer
from cache_pipeline.query.errors import InvalidQuery, QueryError, UnknownReport
from cache_pipeline.query.schema import SchemaMismatch
from cache_pipeline.service.report_service import PlatformNotConfigured
from cache_pipeline.storage.postgres.schemas import HistoryUnavailable
from cache_pipeline.upstream.errors import UpstreamError

MEDIA_TYPE = "application/problem+json"
_TYPES = "urn:cache-pipeline:problem:"


# Not frozen: whoever handles an exception may set its traceback, as Starlette does after each answer.
@dataclass(eq=False)
class Problem(Exception):
    """One error, as its reader sees it.

    Attributes:
        kind: last part of its ``type``, stable, for programs; its ``title`` is the same in words.
        status: of HTTP.
        detail: for people.
        errors: where several things are wrong: each ``{"field", "detail"}``.
        headers: of the answer.
    """

    kind: str
    status: int
    detail: str
    errors: tuple[Mapping[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def document(self) -> dict[str, Any]:
        """The body."""
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
        """The answer; nobody may keep it."""
        headers = {"Cache-Control": "no-store", **self.headers}
        return JSONResponse(self.document(), self.status, headers, MEDIA_TYPE)


def problem_for(error: Exception) -> Problem:
    """What a reader is told of an error of the engine. What is not meant for them is told in general words."""
    match error:
        case Problem():
            return error
        case UnknownReport():
            return Problem("unknown-report", 404, str(error))
        case InvalidQuery():
            return Problem("invalid-query", 422, str(error), ({"field": error.field, "detail": error.problem},))
        case QueryError():
            return Problem("invalid-query", 422, str(error))
        case IncompleteAnswer():
            return Problem("incomplete-answer", 502, str(error))
        case SchemaMismatch():
            return Problem("unexpected-answer", 502, str(error))
        case UpstreamError():
            return Problem("vendor", 502, str(error))
        case PlatformNotConfigured():
            return Problem("not-configured", 503, str(error))
        case HistoryUnavailable():
            return Problem("unavailable", 503, str(error), headers={"Retry-After": "5"})
        case _:
            return Problem("internal", 500, "something went wrong here; the server's log says what")
