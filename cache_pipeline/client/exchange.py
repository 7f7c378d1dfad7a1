"""The steps of an exchange with the API, shared by both clients, which only differ in how they send and wait."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from cache_pipeline.client.answer import (
    ClientAnswer,
    ProgressReport,
    api_error,
    parse_job,
    parse_reports,
    parse_response,
    query_headers,
    result_path,
    retry_after,
)

#: How long the server is asked to hold a request, and how long its response may then take in all.
_WAIT_SECONDS = 20.0
RESPONSE_TIMEOUT_SECONDS = _WAIT_SECONDS + 15.0
#: The server's estimate may be far too long.
_MAX_PAUSE_SECONDS = 15.0
_RECONNECT_SECONDS = 1.0
#: The API says to try again later, if there is Retry-After.
_BUSY_STATUSES = (429, 503)
#: A proxy's own answers while the API restarts or takes long; the request is idempotent, so it is sent again.
_PROXY_STATUSES = (502, 503, 504)


@dataclass(frozen=True)
class SendRequest:
    """A step that sends a request. Its response, or its transport error, decides the next step."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Pause:
    """A step that waits for some seconds."""

    seconds: float


T = TypeVar("T")
#: Send in the response after each `SendRequest` and None after each `Pause`; throw in the error of a failed request.
Steps = Generator[SendRequest | Pause, httpx.Response | None, T]


def list_reports() -> Steps[list[dict[str, Any]]]:
    """Return the reports that the key may query."""
    return parse_reports((yield from _send(SendRequest("GET", "/v1/reports"))))


@dataclass
class QueryExchange:
    """One query, until its answer has arrived or the timeout has passed.

    Attributes:
        report: Name of a declared report.
        body: Body of the query.
        on_progress: Called with the progress of the job, if there is one.
        timeout: Seconds in all.
        now: Monotonic time in seconds.
    """

    report: str
    body: Mapping[str, Any]
    on_progress: Callable[[ProgressReport], None] | None
    timeout: float
    now: Callable[[], float]

    def __post_init__(self) -> None:
        """Start the timeout."""
        self._deadline = self.now() + self.timeout
        # Sent with each repetition of this query, so that all of them follow one job.
        self._idempotency_key = str(uuid4())

    def steps(self) -> Steps[ClientAnswer]:
        """Send the query, and follow its job if there is one.

        Raises:
            ApiError: As `Client.query`.
            ClientJobFailed: As `Client.query`.
            TimeoutError: As `Client.query`.
        """
        subject = f"the answer of {self.report}"
        outcome = parse_response((yield from self._request("POST", f"/v1/reports/{self.report}", subject, self.body)))
        while isinstance(outcome, ProgressReport):
            outcome = yield from self._follow(outcome)
        return outcome

    def _follow(self, job: ProgressReport) -> Steps[ClientAnswer | ProgressReport]:
        subject = f"job {job.job_id}"
        while True:
            if self.on_progress is not None:
                self.on_progress(job)
            try:
                if job.is_finished:
                    return parse_response((yield from self._request("GET", result_path(job, self.body), subject)))
                yield from self._pause(job.retry_after, subject)
                job = parse_job((yield from self._request("GET", f"/v1/jobs/{job.job_id}", subject)))
            except httpx.RequestError:
                # The job continues on the server, whatever happened to the connection.
                yield from self._pause(_RECONNECT_SECONDS, subject)

    def _request(
        self, method: str, path: str, subject: str, body: Mapping[str, Any] | None = None
    ) -> Steps[httpx.Response]:
        """Return the response, after repeating the request as often as the API says to try again later."""
        key = self._idempotency_key if method == "POST" else None
        while True:
            wait = min(_WAIT_SECONDS, self._deadline - self.now())
            try:
                response = yield from _send(SendRequest(method, path, body, query_headers(wait, key)))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Most likely the URL is wrong. A caller that follows a job catches this, because the URL was right before.
                raise
            except httpx.RequestError:
                if self.now() >= self._deadline:
                    raise
                yield from self._pause(_RECONNECT_SECONDS, subject)
                continue
            pause = retry_after(response)
            if response.status_code in _PROXY_STATUSES:
                pause = pause or _RECONNECT_SECONDS
            elif response.status_code not in _BUSY_STATUSES or pause is None:
                return response
            if self.now() >= self._deadline:
                raise api_error(response)
            yield from self._pause(pause, subject)

    def _pause(self, seconds: float, subject: str) -> Steps[None]:
        remaining = self._deadline - self.now()
        if remaining <= 0:
            raise TimeoutError(
                f"{subject} was not done within {self.timeout:.0f} s; it continues on the server: query again to find it"
            )
        yield Pause(min(seconds, remaining, _MAX_PAUSE_SECONDS))


def _send(request: SendRequest) -> Steps[httpx.Response]:
    response = yield request
    if response is None:
        raise TypeError("a SendRequest must be answered with a response")
    return response
