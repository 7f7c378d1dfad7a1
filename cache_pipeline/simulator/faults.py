"""Faults on demand: what the next requests, jobs and results shall suffer."""

from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Times = Annotated[int, Field(ge=0, strict=True)]


class Faults(BaseModel):
    """The faults that are still to come; the body of `POST /simulator/faults`, which replaces them all.

    Those of the access token and of the rate limit strike before the request costs anything, the others after.

    Attributes:
        max_rows: Every result is silently cut to so many rows or group-buckets, even one of a single bucket; null for
            the settings' own limits.
        fail_jobs: The next jobs that are submitted fail.
        hang_jobs: The next jobs are never done.
        expire_jobs: The next jobs have expired once one page of their results has been read.
        vanish_jobs: The next jobs are unknown as soon as their submit has been answered.
        server_errors: The next API requests are answered with `server_error_status`.
        server_error_status: 500, 502, 503 or 504.
        reject_with_429: The next API requests are answered 429 without Retry-After, and do not count.
        throttle: The next API requests are answered 429 with Retry-After, and do not count.
        throttle_seconds: What that Retry-After says.
        unauthorized: The next API requests are answered 401.
        revoke_tokens: The access tokens of the next API requests are revoked before their time: 401, from then on.
        resets: The next answers break off in the middle, and the connection with them.
        truncate_bodies: The next answers hold the first half of their JSON, and claim to be whole.
        slow_bodies: The next answers come in drops, `slow_seconds` from first to last.
        slow_seconds: See there.
        clock_offset_seconds: How far the vendor's clock is ahead of the true time; all its instants follow it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: Annotated[int, Field(ge=0, strict=True)] | None = None
    fail_jobs: Times = 0
    hang_jobs: Times = 0
    expire_jobs: Times = 0
    vanish_jobs: Times = 0
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
    clock_offset_seconds: Annotated[float, Field(ge=-1e8, le=1e8)] = 0.0


class Fate(Enum):
    """What becomes of a job that is not to end well; the values are the faults that bring it."""

    FAILS = "fail_jobs"
    HANGS = "hang_jobs"
    EXPIRES = "expire_jobs"
    VANISHES = "vanish_jobs"


class FaultBoard:
    """The faults now set; asking for one uses it up."""

    def __init__(self) -> None:
        self.current = Faults()

    def take(self, name: str) -> bool:
        """Return whether the fault counted by the field `name` strikes now."""
        left: int = getattr(self.current, name)
        if left:
            self.current = self.current.model_copy(update={name: left - 1})
        return left > 0

    def take_fate(self) -> Fate | None:
        """Return what shall become of the job that is being submitted."""
        return next((fate for fate in Fate if self.take(fate.value)), None)
