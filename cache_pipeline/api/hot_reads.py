"""The fast path of a hot read: middleware that sends bytes from Redis to the socket without running the application.

It answers only URLs that the application has answered before for the same caller's tenant. Everything else goes to the
application, which holds all the rules. A hot read logs nothing, so its correlation id only appears in the response.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.auth import Principal
from cache_pipeline.api.dependencies import anonymous
from cache_pipeline.api.middleware import REQUEST_ID, TRACE_PARENT
from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.response_headers import (
    AnswerAge,
    CachePolicy,
    CacheStatusSource,
    answer_age,
    etag_matches,
    response_headers,
)
from cache_pipeline.storage.answer import Completeness
from cache_pipeline.telemetry.correlation import accept_correlation_id

_PATH_PREFIX = "/v1/reports/"
_JSON_ACCEPT = (b"", b"*/*", b"application/json")


class HotReads:
    """Serves hot reads in front of the application, and counts every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        query_service: QueryService = scope["app"].state.query_service
        if scope["method"] == "GET" and scope["path"].startswith(_PATH_PREFIX):
            status = await self._serve_hot(query_service, scope, send)
            if status:
                query_service.counters.count_request(
                    CacheStatusSource.hot, "not_modified" if status == 304 else "hit", time.perf_counter() - started
                )
                return
        await self._serve_counted(query_service, scope, receive, send, started)

    async def _serve_hot(self, query_service: QueryService, scope: Scope, send: Send) -> int:
        """Answer a hot read and return its status, or return 0 if it is not a hot read and nothing was sent."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"prefer" in headers or b"cache-control" in headers or headers.get(b"accept", b"") not in _JSON_ACCEPT:
            return 0
        correlation_id = accept_correlation_id(_text(headers.get(REQUEST_ID)), _text(headers.get(TRACE_PARENT)))
        caller = _cached_caller(query_service, headers)
        parsed = query_service.parse_cache.get(caller.tenant, scope) if caller is not None else None
        if caller is None or parsed is None or not caller.may_query(parsed.report.name):
            return 0
        answers = query_service.report_service_for(caller.tenant).cached_answers
        hit = await answers.from_hot(parsed.query, parsed.key)
        if hit is None:
            return 0
        try:
            rate = query_service.rate_limiter.take(caller).headers()
        except Problem as problem:
            refusal = problem.response()
            refusal.headers[REQUEST_ID.decode()] = correlation_id
            await refusal(scope, _receive_disconnect, send)
            return problem.status
        query_service.demand.record(parsed.key, parsed.query, is_hit=True)
        answer = hit.answer
        age = answer_age(answer, parsed.report, query_service.clock())
        raw = [
            *_encoded_headers(answer.etag, answer.completeness, age, query_service.cache_policy),
            *((name.lower().encode(), value.encode()) for name, value in rate.items()),
            (REQUEST_ID, correlation_id.encode("ascii")),
        ]
        is_unchanged = etag_matches(_text(headers.get(b"if-none-match")), answer.etag)
        body = b"" if is_unchanged else answer.body
        if not is_unchanged:
            raw.append((b"content-length", str(len(body)).encode()))
        status = 304 if is_unchanged else 200
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})
        return status

    async def _serve_counted(
        self, query_service: QueryService, scope: Scope, receive: Receive, send: Send, started: float
    ) -> None:
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            state: dict[str, Any] = scope.get("state", {})
            tier = str(state.get("tier", "none"))
            result = _RESULTS.get(status) or f"{status // 100}xx"
            query_service.counters.count_request(tier, result, time.perf_counter() - started)


@lru_cache(maxsize=4096)
def _encoded_headers(
    etag: str, completeness: Completeness, age: AnswerAge, policy: CachePolicy
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that are the same for every read of an answer within one second."""
    headers = response_headers(etag, completeness, MediaFormat.json, CacheStatusSource.hot, age, policy)
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


_RESULTS = {200: "hit", 202: "accepted", 304: "not_modified"}


def _cached_caller(query_service: QueryService, headers: dict[bytes, bytes]) -> Principal | None:
    if query_service.settings.api.auth == "off":
        return anonymous(query_service)
    authorization = headers.get(b"authorization", b"")
    key = authorization[7:] if authorization[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
    return query_service.api_keys.get_cached(key.decode("latin-1")) if key else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _receive_disconnect() -> Message:
    return {"type": "http.disconnect"}
