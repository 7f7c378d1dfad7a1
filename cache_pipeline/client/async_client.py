"""The asyncio client of the HTTP API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, Self, TypeVar

import httpx

from cache_pipeline.client.answer import ClientAnswer, ProgressReport, auth_headers, query_body
from cache_pipeline.client.exchange import (
    RESPONSE_TIMEOUT_SECONDS,
    Pause,
    QueryExchange,
    SendRequest,
    Steps,
    list_reports,
)

T = TypeVar("T")


class AsyncClient:
    """An asyncio client of one API, with the methods of `Client`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a client; the arguments are those of `Client`."""
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=url, headers=auth_headers(key), timeout=RESPONSE_TIMEOUT_SECONDS, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def reports(self) -> list[dict[str, Any]]:
        """Return the reports that the key may query."""
        return await self._run(list_reports())

    async def query(
        self,
        report: str,
        interval: str | None = None,
        *,
        group_by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        granularity: str | None = None,
        time_zone: str | None = None,
        filters: Mapping[str, Any] | None = None,
        names: Literal["current", "then"] | None = None,
        measures: Sequence[str] | None = None,
        as_of: datetime | str | None = None,
        live: bool = False,
        on_progress: Callable[[ProgressReport], None] | None = None,
    ) -> ClientAnswer:
        """Return the finished answer; arguments and errors are those of `Client.query`."""
        body = query_body(
            interval, group_by, metrics, granularity, time_zone, filters, names, measures, as_of, live=live
        )
        return await self._run(QueryExchange(report, body, on_progress, self._timeout, time.monotonic).steps())

    async def _run(self, steps: Steps[T]) -> T:
        resume: Callable[[], SendRequest | Pause] = partial(next, steps)
        while True:
            try:
                step = resume()
            except StopIteration as finished:
                return finished.value
            resume = partial(next, steps)
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                response = await self._http.request(step.method, step.path, json=step.body, headers=step.headers)
            except httpx.RequestError as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, response)
