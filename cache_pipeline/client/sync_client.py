"""The client for plain code."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from cache_pipeline.client.answer import ClientAnswer, ProgressReport, headers_of, query_url
from cache_pipeline.client.exchange import ANSWER_SECONDS, Pause, QueryExchange, SendRequest, Steps, listing

T = TypeVar("T")


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
        self._http = httpx.Client(base_url=url, headers=headers_of(key), timeout=ANSWER_SECONDS, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def reports(self) -> list[dict[str, Any]]:
        """The reports that the key may ask for."""
        return self._run(listing())

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
        on_progress: Callable[[ProgressReport], None] | None = None,
    ) -> ClientAnswer:
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
            ApiError: the API refused; where it says when to come back (429, 503) that is waited for within the timeout.
            JobFailed: the job ended without an answer.
            TimeoutError: it took too long; the job goes on, and asking again finds it.
            httpx.TransportError: the API cannot be reached. Once there is a job, that is tried again within the timeout.
        """
        body = query_url(interval, group_by, metrics, granularity, time_zone, filters)
        return self._run(QueryExchange(report, body, on_progress, self._timeout, time.monotonic).steps())

    def _run(self, steps: Steps[T]) -> T:
        go_on: Callable[[], SendRequest | Pause] = partial(next, steps)
        while True:
            try:
                step = go_on()
            except StopIteration as ended:
                return ended.value
            go_on = partial(next, steps)
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                response = self._http.request(step.method, step.path, json=step.body, headers=step.headers)
            except httpx.TransportError as error:
                go_on = partial(steps.throw, error)
            else:
                go_on = partial(steps.send, response)
