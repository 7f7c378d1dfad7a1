"""Responses damaged by configured faults: interrupted with the connection, truncated in their JSON, or slow."""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cache_pipeline.simulator.faults import FaultInjector

_SLOW_CHUNKS = 10


class _InterruptedResponse(Response):
    """Half of a response with the headers of the complete one; the server then closes the connection."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


class _SlowResponse(Response):
    """A response that arrives in small chunks."""

    def __init__(self, response: Response, seconds: float) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = bytes(self.body)
        size = -(-len(body) // _SLOW_CHUNKS) or 1
        for start in range(0, len(body), size):
            await asyncio.sleep(self._seconds / _SLOW_CHUNKS)
            chunk = body[start : start + size]
            await send({"type": "http.response.body", "body": chunk, "more_body": start + size < len(body)})
        if not body:
            await send({"type": "http.response.body", "body": b""})


def apply_response_faults(response: Response, faults: FaultInjector) -> Response:
    """Return `response` with the pending response faults applied; only a response with a body uses them up."""
    if not response.body:
        return response
    if faults.take("resets"):
        return _InterruptedResponse(response)
    if faults.take("truncate_bodies"):
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return Response(bytes(response.body)[: len(response.body) // 2], response.status_code, headers)
    if faults.take("slow_bodies"):
        return _SlowResponse(response, faults.current.slow_seconds)
    return response
