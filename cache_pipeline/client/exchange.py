"""What both clients do, step by step, apart from how they send and wait."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from cache_pipeline.client.answer import (
    ClientAnswer,
    ProgressReport,
    build_request,
    raise_for_problem,
    read,
    read_job,
    result_of,
)

#: How long the server is asked to hold a question, and how long its answer may then take in all.
_WAIT_SECONDS = 20.0
ANSWER_SECONDS = _WAIT_SECONDS + 15.0
#: An estimate may be far too long.
_LONGEST_PAUSE_SECONDS = 15.0
_BROKEN_OFF_PAUSE_SECONDS = 1.0
_COME_BACK = (429, 503)


@dataclass(frozen=True)
class SendRequest:
    """A request to send; its answer, or how it broke off, is what the next step is decided by."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Pause:
    """Seconds to let pass."""

    seconds: float


T = TypeVar("T")
#: To be sent the response to each ``Send``, and None after each ``Pause``; a request that broke off is thrown in.
Steps = Generator[SendRequest | Pause, httpx.Response | None, T]


def _sent(request: SendRequest) -> Steps[httpx.Response]:
    response = yield request
    if response is None:
        raise TypeError("a Send is answered by a response")
    return response


def listing() -> Steps[list[dict[str, Any]]]:
    """The reports that the key may ask for."""
    response = yield from _sent(SendRequest("GET", "/v1/reports"))
    if response.status_code != 200:
        raise raise_for_problem(response)
    return response.json()["reports"]


@dataclass
class QueryExchange:
    """One question, until its answer is there or the time is over.

    Attributes:
        report: name of a declared report.
        question: the body.
        on_progress: hears of the job, where there is one.
        timeout: seconds in all.
        now: seconds that only grow.
    """

    report: str
    question: Mapping[str, Any]
    on_progress: Callable[[ProgressReport], None] | None
    timeout: float
    now: Callable[[], float]

    def __post_init__(self) -> None:
        """The time begins to run."""
        self._deadline = self.now() + self.timeout

    def steps(self) -> Steps[ClientAnswer]:
        """Ask, and follow the job where there is one.

        Raises:
            ApiError, JobFailed, TimeoutError: as ``Client.query`` does.
        """
        what = f"{self.report}'s answer"
        found = read((yield from self._answered("POST", f"/v1/reports/{self.report}", what, self.question)))
        while isinstance(found, ProgressReport):
            found = yield from self._followed(found)
        return found

    def _followed(self, job: ProgressReport) -> Steps[ClientAnswer | ProgressReport]:
        what = f"job {job.job_id}"
        while True:
            if self.on_progress is not None:
                self.on_progress(job)
            try:
                if job.ended:
                    return read((yield from self._answered("GET", result_of(job), what)))
                yield from self._paused(job.retry_after, what)
                job = read_job((yield from self._answered("GET", f"/v1/jobs/{job.job_id}", what)))
            except httpx.TransportError:
                # The job goes on, whatever became of the connection.
                yield from self._paused(_BROKEN_OFF_PAUSE_SECONDS, what)

    def _answered(
        self, method: str, path: str, what: str, body: Mapping[str, Any] | None = None
    ) -> Steps[httpx.Response]:
        """A response; where the API says to come back later, the one that it gives then."""
        while True:
            wait = min(_WAIT_SECONDS, self._deadline - self.now())
            response = yield from _sent(SendRequest(method, path, body, build_request(wait)))
            if response.status_code not in _COME_BACK or "Retry-After" not in response.headers:
                return response
            if self.now() >= self._deadline:
                raise raise_for_problem(response)
            yield from self._paused(float(response.headers["Retry-After"]), what)

    def _paused(self, seconds: float, what: str) -> Steps[None]:
        left = self._deadline - self.now()
        if left <= 0:
            raise TimeoutError(f"{what} was not done within {self.timeout:.0f} s; it goes on")
        yield Pause(min(seconds, left, _LONGEST_PAUSE_SECONDS))
