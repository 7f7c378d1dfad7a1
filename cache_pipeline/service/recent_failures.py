"""What has failed a moment ago, so that it is not tried again at once, however many callers want it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.errors import CachePipelineError


@dataclass(frozen=True)
class RecentFailures:
    """The errors of one process, by key. Callers name the keys, so those whose time is over are dropped."""

    _errors: dict[str, tuple[CachePipelineError, datetime]] = field(
        default_factory=dict[str, tuple[CachePipelineError, datetime]]
    )

    def record(self, key: str, error: CachePipelineError, now: datetime, until: datetime) -> None:
        """Remember an error until an instant."""
        for past in [each for each, (_, end) in self._errors.items() if end <= now]:
            del self._errors[past]
        self._errors[key] = error, until

    def find(self, key: str, now: datetime) -> CachePipelineError | None:
        """Return the error that counts now, or None."""
        error, until = self._errors.get(key, (None, now))
        return error if now < until else None

    def forget(self, key: str) -> None:
        """Forget an error, because what had failed has succeeded."""
        self._errors.pop(key, None)
