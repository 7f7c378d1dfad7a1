"""The client for plain code."""

from __future__ import annotations

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


class Client:
    """Asks one API. To be closed, or used as a context manager."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 600.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Keep where to ask.

        Args:
            url: base URL of the API.
            key: an API key, where one is wanted.
            timeout: seconds that an answer may take in all.
            transport: how requests are sent, for tests.
        """
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=url, headers=headers_of(key), timeout=_WAIT_SECONDS + _MARGIN_SECONDS, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def reports(self) -> list[dict[str, Any]]:
        """The reports that the key may ask for."""
        response = self._http.get("/v1/reports")
        if response.status_code != 200:
            read(response)
        return response.json()["reports"]

    def query(
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
        """The finished answer, however long it takes within the timeout; what is None is as the report declares it.

        Args:
            report: name of a declared report.
            interval: ``start/end``, half-open, ISO 8601.
            group_by: fewer dimensions.
            metrics: fewer metrics.
            granularity: longer buckets.
            time_zone: whose days and hours are meant.
            filters: rows to keep.
            on_progress: hears of the job, where there is one.

        Raises:
            ApiError: the API refused.
            JobFailed: the job ended without an answer.
            TimeoutError: it took too long; the job goes on, and asking again finds it.
        """
        body = question(interval, group_by, metrics, granularity, time_zone, filters)
        deadline = time.monotonic() + self._timeout
        found = read(self._http.post(f"/v1/reports/{report}", json=body, headers=asking(_WAIT_SECONDS)))
        while isinstance(found, Progress):
            found = self._followed(found, on_progress, deadline)
        return found

    def _followed(
        self, job: Progress, on_progress: Callable[[Progress], None] | None, deadline: float
    ) -> Answer | Progress:
        while True:
            if on_progress is not None:
                on_progress(job)
            if job.ended:
                return read(self._http.get(result_of(job), headers=asking(_WAIT_SECONDS)))
            if time.monotonic() + job.retry_after > deadline:
                raise TimeoutError(f"job {job.job_id} was not done within {self._timeout:.0f} s; it goes on")
            time.sleep(job.retry_after)
            job = read_job(self._http.get(f"/v1/jobs/{job.job_id}"))
