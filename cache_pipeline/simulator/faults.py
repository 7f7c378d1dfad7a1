"""Faults on demand: what the next requests, jobs and results shall suffer."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Times = Annotated[int, Field(ge=0, strict=True)]


class Faults(BaseModel):
    """The faults that are still to come; the body of `POST /simulator/faults`, which replaces them all.

    Attributes:
        max_rows: Every result is silently cut to so many rows or group-buckets, even one of a single bucket; null for
            the settings' own limits.
        fail_jobs: The next jobs that are submitted fail.
        server_errors: The next API requests are answered 503.
        reject_with_429: The next API requests are answered 429 without Retry-After, and do not count.
        unauthorized: The next API requests are answered 401.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: Annotated[int, Field(ge=0, strict=True)] | None = None
    fail_jobs: Times = 0
    server_errors: Times = 0
    reject_with_429: Times = 0
    unauthorized: Times = 0


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
