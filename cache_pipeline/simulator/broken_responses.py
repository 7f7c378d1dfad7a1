"""Answers that go wrong on their way: cut off with the connection, cut short in their JSON, or coming in drops."""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cache_pipeline.simulator.faults import FaultBoard

_DROPS = 10


class _BrokenOff(Response):
    """Half of an answer that promised the whole; the server then closes the connection."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


class _Slow(Response):
    """An answer in drops."""

    def __init__(self, response: Response, seconds: float) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = bytes(self.body)
        size = -(-len(body) // _DROPS) or 1
        for start in range(0, len(body), size):
            await asyncio.sleep(self._seconds / _DROPS)
            drop = body[start : start + size]
            await send({"type": "http.response.body", "body": drop, "more_body": start + size < len(body)})
        if not body:
            await send({"type": "http.response.body", "body": b""})


def broken_answer(response: Response, faults: FaultBoard) -> Response:
    """Return `response` as the faults on demand let it through; used up only by an answer that has a body."""
    if not response.body:
        return response
    if faults.take("resets"):
        return _BrokenOff(response)
    if faults.take("truncate_bodies"):
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return Response(bytes(response.body)[: len(response.body) // 2], response.status_code, headers)
    if faults.take("slow_bodies"):
        return _Slow(response, faults.current.slow_seconds)
    return response
