"""The shortest path of a hot read: from the bytes in Redis to the socket, past everything that only a first read needs.

It stands before the application and answers what it knows to be the same question of the same caller as one that the
application has answered; all else goes on to the application, where every rule lives. A hot read logs nothing, so it carries its
correlation id no further than into the answer.
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

_PATH = "/v1/reports/"
_PLAIN = (b"", b"*/*", b"application/json")


class HotReads:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        gateway: QueryService = scope["app"].state.gateway
        if scope["method"] == "GET" and scope["path"].startswith(_PATH):
            status = await self._hot(gateway, scope, send)
            if status:
                gateway.meter.observe(
                    CacheStatusSource.hot, "not_modified" if status == 304 else "hit", time.perf_counter() - started
                )
                return
        await self._measured(gateway, scope, receive, send, started)

    async def _hot(self, gateway: QueryService, scope: Scope, send: Send) -> int:
        """Answer a hot read; 0 where it is none, and nothing was sent."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"prefer" in headers or b"cache-control" in headers or headers.get(b"accept", b"") not in _PLAIN:
            return 0
        name = accept_correlation_id(_text(headers.get(REQUEST_ID)), _text(headers.get(TRACE_PARENT)))
        caller = _known_caller(gateway, headers)
        question = gateway.questions.find(caller.tenant, scope) if caller is not None else None
        if caller is None or question is None or not caller.may_ask(question.report.name):
            return 0
        held = await gateway.service.hot.get_entry_by_key(question.key)
        if held is None:
            return 0
        if held.is_refresh_due:
            gateway.service_of(caller.tenant).cached_answers.refresh_in_background(question.query)
        try:
            rate = gateway.limits.take(caller).headers()
        except Problem as problem:
            refusal = problem.response()
            refusal.headers[REQUEST_ID.decode()] = name
            await refusal(scope, _nothing_more, send)
            return problem.status
        gateway.tally.asked(question.key, question.query, kept=True)
        answer = held.answer
        age = answer_age(answer, question.report, gateway.clock())
        raw = [
            *_told(answer.etag, answer.completeness, age, gateway.caching),
            *((name.lower().encode(), value.encode()) for name, value in rate.items()),
            (REQUEST_ID, name.encode("ascii")),
        ]
        unchanged = etag_matches(_text(headers.get(b"if-none-match")), answer.etag)
        body = b"" if unchanged else answer.body
        if not unchanged:
            raw.append((b"content-length", str(len(body)).encode()))
        status = 304 if unchanged else 200
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})
        return status

    async def _measured(
        self, gateway: QueryService, scope: Scope, receive: Receive, send: Send, started: float
    ) -> None:
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            state: dict[str, Any] = scope.get("state", {})
            tier = str(state.get("tier", "none"))
            gateway.meter.observe(tier, _RESULTS.get(status) or f"{status // 100}xx", time.perf_counter() - started)


@lru_cache(maxsize=4096)
def _told(
    etag: str, completeness: Completeness, age: AnswerAge, policy: CachePolicy
) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that are the same for all who read an answer within one second."""
    told = response_headers(etag, completeness, MediaFormat.json, CacheStatusSource.hot, age, policy)
    return tuple((name.lower().encode(), value.encode()) for name, value in told.items())


_RESULTS = {200: "hit", 202: "accept_correlation_id", 304: "not_modified"}


def _known_caller(gateway: QueryService, headers: dict[bytes, bytes]) -> Principal | None:
    if gateway.settings.gateway.auth == "off":
        return anonymous(gateway)
    authorization = headers.get(b"authorization", b"")
    key = authorization[7:] if authorization[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
    return gateway.keys.remembered(key.decode("latin-1")) if key else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
