"""Configurable faults of the next requests, jobs and results."""

from enum import Enum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cache_pipeline.simulator.intervals import Interval, parse_interval

_UTC = ZoneInfo("UTC")
Times = Annotated[int, Field(ge=0, strict=True)]


def _check_interval(text: str) -> str:
    parse_interval(text, _UTC)
    return text


FaultyInterval = Annotated[str, AfterValidator(_check_interval)]


class Faults(BaseModel):
    """The pending faults; the body of `POST /simulator/faults`, which replaces them all.

    Faults of the access token and of the rate limit occur before the request counts against a limit, the others after.

    Attributes:
        max_rows: Every result is silently truncated to this many rows or group-buckets, even one of a single bucket; null
            for the limits of the settings.
        max_bytes: Every result is silently truncated to the rows that fit into this many bytes of JSON or CSV; null for no
            such limit.
        order: Order in which an aggregate is truncated and sent: `time`, so that a truncation removes the last buckets, or
            `groups`, so that it removes whole groups.
        longest_interval_hours: A query for more hours than this is refused because of its size; null for no such limit.
        size_refusal: How it is refused: 400 that asks for a smaller interval, 413, 504, or `failed` for a job that is
            accepted and then fails (a synchronous query is answered 504).
        empty_seconds: Every query that starts within this many seconds of setting the fault has an empty result.
        repeat_records: Number of entries at the end of each page of results that the next page begins with again; the last
            page repeats its own.
        fail_jobs: Number of the next submitted jobs that fail.
        fail_jobs_touching: Every job whose interval overlaps this one (ISO 8601, `start/end`) fails; null for none.
        hang_jobs: Number of the next jobs that never finish.
        expire_jobs: Number of the next jobs that expire after one page of their results has been read.
        vanish_jobs: Number of the next jobs that are unknown as soon as they have been submitted.
        request_timeouts: Number of the next API requests that are answered 408 `client.timeout`.
        server_errors: Number of the next API requests that are answered with `server_error_status`.
        server_error_status: 500, 502, 503 or 504.
        reject_with_429: Number of the next API requests that are answered 429 without Retry-After, and do not count.
        throttle: Number of the next API requests that are answered 429 with Retry-After, and do not count.
        throttle_seconds: Retry-After of those responses.
        unauthorized: Number of the next API requests that are answered 401.
        revoke_tokens: Number of the next API requests whose access token is revoked before it expires: 401, from then on.
        resets: Number of the next responses that break off in the middle together with the connection.
        truncate_bodies: Number of the next responses with only the first half of their JSON that claim to be complete.
        slow_bodies: Number of the next responses that arrive slowly, over `slow_seconds`.
        slow_seconds: Duration of a slow response.
        sockets: `cut`: the sockets of notification channels are closed, and new ones refused; `silent`: nothing is sent on them.
        rubbish_messages: Number of the next notifications before each of which a text that is not JSON is sent.
        expire_channels: Number of the next channels with a socket that expire at once.
        clock_offset_seconds: How far the vendor's clock is ahead of the true time; all its instants use that clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: Annotated[int, Field(ge=0, strict=True)] | None = None
    max_bytes: Annotated[int, Field(ge=0, strict=True)] | None = None
    order: Literal["time", "groups"] = "time"
    longest_interval_hours: Annotated[float, Field(gt=0)] | None = None
    size_refusal: Literal[400, 413, 504, "failed"] = 413
    empty_seconds: Annotated[float, Field(ge=0, le=1e8)] = 0.0
    repeat_records: Times = 0
    fail_jobs: Times = 0
    fail_jobs_touching: FaultyInterval | None = None
    hang_jobs: Times = 0
    expire_jobs: Times = 0
    vanish_jobs: Times = 0
    request_timeouts: Times = 0
    server_errors: Times = 0
    server_error_status: Literal[500, 502, 503, 504] = 503
    reject_with_429: Times = 0
    throttle: Times = 0
    throttle_seconds: Annotated[int, Field(ge=0, strict=True)] = 1
    unauthorized: Times = 0
    revoke_tokens: Times = 0
    resets: Times = 0
    truncate_bodies: Times = 0
    slow_bodies: Times = 0
    slow_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    sockets: Literal["open", "cut", "silent"] = "open"
    rubbish_messages: Times = 0
    expire_channels: Times = 0
    clock_offset_seconds: Annotated[float, Field(ge=-1e8, le=1e8)] = 0.0


class JobFault(Enum):
    """The fault of a job; each value is the field of `Faults` that counts it."""

    FAILS = "fail_jobs"
    HANGS = "hang_jobs"
    EXPIRES = "expire_jobs"
    VANISHES = "vanish_jobs"


_HOUR_MS = 3_600_000


class FaultInjector:
    """The pending faults; each one that is counted is used up when it occurs."""

    def __init__(self) -> None:
        self.current = Faults()
        self._set_at = 0.0

    def replace(self, faults: Faults, now: float) -> None:
        """Replace all faults at the instant `now`, in seconds."""
        self.current = faults
        self._set_at = now

    def refuses_size(self, interval: Interval) -> bool:
        """Return whether a query is refused because of the length of its interval."""
        longest = self.current.longest_interval_hours
        return longest is not None and interval.length_ms > longest * _HOUR_MS

    def max_rows_at(self, now: float) -> int | None:
        """Return the most rows in the result of a query that starts at `now`; None for no limit."""
        is_empty = now < self._set_at + self.current.empty_seconds
        return 0 if is_empty else self.current.max_rows

    def take(self, name: str) -> bool:
        """Return whether the fault in the field `name` occurs now, and count it down."""
        remaining: int = getattr(self.current, name)
        if remaining:
            self.current = self.current.model_copy(update={name: remaining - 1})
        return remaining > 0

    def take_job_fault(self, interval: Interval) -> JobFault | None:
        """Return the fault of the job that is being submitted for an interval, if any."""
        failing = self.current.fail_jobs_touching
        if failing is not None and interval.overlaps(parse_interval(failing, _UTC)):
            return JobFault.FAILS
        return next((job_fault for job_fault in JobFault if self.take(job_fault.value)), None)
