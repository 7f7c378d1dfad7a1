"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from cache_pipeline.client.answer import ClientAnswer, ProgressReport, headers_of, query_url
from cache_pipeline.client.exchange import ANSWER_SECONDS, Pause, QueryExchange, SendRequest, Steps, listing

T = TypeVar("T")


class AsyncClient:
    """Asks one API, as ``Client`` does."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Keep where to ask; the arguments are those of ``Client``."""
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers_of(key), timeout=ANSWER_SECONDS, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def reports(self) -> list[dict[str, Any]]:
        """The reports that the key may ask for."""
        return await self._run(listing())

    async def query(
        self,
        report: str,
        interval: str,
        *,
        group_by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        granularity: str | None = None,
        time_zone: str | None = None,
        filters: Mapping[str, Any] | None = None,
        on_progress: Callable[[ProgressReport], None] | None = None,
    ) -> ClientAnswer:
        """The finished answer; arguments and errors are those of ``Client.query``."""
        body = query_url(interval, group_by, metrics, granularity, time_zone, filters)
        return await self._run(QueryExchange(report, body, on_progress, self._timeout, time.monotonic).steps())

    async def _run(self, steps: Steps[T]) -> T:
        go_on: Callable[[], SendRequest | Pause] = partial(next, steps)
        while True:
            try:
                step = go_on()
            except StopIteration as ended:
                return ended.value
            go_on = partial(next, steps)
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                response = await self._http.request(step.method, step.path, json=step.body, headers=step.headers)
            except httpx.TransportError as error:
                go_on = partial(steps.throw, error)
            else:
                go_on = partial(steps.send, response)
