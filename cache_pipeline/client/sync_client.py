"""The synchronous client of the HTTP API."""

from __future__ import annotations

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


class Client:
    """A synchronous client of one API. Close it, or use it as a context manager."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 600.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Create a client.

        Args:
            url: Base URL of the API.
            key: An API key, if the API requires one.
            timeout: Seconds that an answer may take in all.
            transport: How requests are sent, for tests.
        """
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=url, headers=auth_headers(key), timeout=RESPONSE_TIMEOUT_SECONDS, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def reports(self) -> list[dict[str, Any]]:
        """Return the reports that the key may query."""
        return self._run(list_reports())

    def query(
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
        """Return the finished answer, waiting for it within the timeout.

        Arguments that are None keep the report's declaration.

        Args:
            report: Name of a declared report.
            interval: ``start/end``, half-open, ISO 8601; None for live reports, which have none.
            group_by: A subset of the report's dimensions.
            metrics: A subset of the report's metrics.
            granularity: A longer bucket size.
            time_zone: IANA time zone of days and hours.
            filters: Which rows to include.
            names: Add names after ids: ``current`` ones, or those at the time of the figures (``then``).
            measures: Measures of the report to add, by name.
            as_of: Answer with final figures as they were known at this instant, if the report declares time_travel.
            live: Add the rows of the live report that the report declares, and the column ``state``: final, provisional or live.
            on_progress: Called with the progress of the job, if there is one.

        Raises:
            KeyRefused: The key is missing, wrong, or not for this report.
            QueryRefused: The query cannot be answered; the message says what to change.
            ApiUnavailable: The API was overloaded or unavailable until the timeout; before that, the client tries again.
            UnexpectedResponse: Something else than the API answered.
            ClientJobFailed: The job ended without an answer.
            TimeoutError: The answer took too long. The job continues on the server, and the same query finds it.
            httpx.TransportError: The API cannot be reached. A connection that breaks later is opened again within the
                timeout; all repetitions of a query follow one job.
        """
        body = query_body(
            interval, group_by, metrics, granularity, time_zone, filters, names, measures, as_of, live=live
        )
        return self._run(QueryExchange(report, body, on_progress, self._timeout, time.monotonic).steps())

    def _run(self, steps: Steps[T]) -> T:
        resume: Callable[[], SendRequest | Pause] = partial(next, steps)
        while True:
            try:
                step = resume()
            except StopIteration as finished:
                return finished.value
            resume = partial(next, steps)
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                response = self._http.request(step.method, step.path, json=step.body, headers=step.headers)
            except httpx.RequestError as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, response)
