"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import httpx

from cache_pipeline.client.answer import (
    Answer,
    Progress,
    asking,
    headers_of,
    question,
    read,
    read_job,
    result_of,
)

_WAIT_SECONDS = 20.0
_MARGIN_SECONDS = 15.0


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
            base_url=url, headers=headers_of(key), timeout=_WAIT_SECONDS + _MARGIN_SECONDS, transport=transport
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
        response = await self._http.get("/v1/reports")
        if response.status_code != 200:
            read(response)
        return response.json()["reports"]

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
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Answer:
        """The finished answer; arguments and errors are those of ``Client.query``."""
        body = question(interval, group_by, metrics, granularity, time_zone, filters)
        deadline = time.monotonic() + self._timeout
        found = read(await self._http.post(f"/v1/reports/{report}", json=body, headers=asking(_WAIT_SECONDS)))
        while isinstance(found, Progress):
            found = await self._followed(found, on_progress, deadline)
        return found

    async def _followed(
        self, job: Progress, on_progress: Callable[[Progress], None] | None, deadline: float
    ) -> Answer | Progress:
        while True:
            if on_progress is not None:
                on_progress(job)
            if job.ended:
                return read(await self._http.get(result_of(job), headers=asking(_WAIT_SECONDS)))
            if time.monotonic() + job.retry_after > deadline:
                raise TimeoutError(f"job {job.job_id} was not done within {self._timeout:.0f} s; it goes on")
            await asyncio.sleep(job.retry_after)
            job = read_job(await self._http.get(f"/v1/jobs/{job.job_id}"))
