"""What a flight is of: a name, and of a thing that lies in time the part that is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.query.interval import Interval

#: Whole numbers up to here are exact in the doubles that Redis' scripts reckon with.
_FOREVER = 2**53 - 1


def _micros(instant: datetime) -> int:
    # Whole microseconds: exact until the year 2255, which no bucket lies beyond.
    return round(instant.timestamp() * 1_000_000)


@dataclass(frozen=True)
class Flight:
    """Two flights of one name exclude each other where they overlap; ends are microseconds since the epoch, half-open."""

    name: str
    start: int = -_FOREVER
    end: int = _FOREVER

    @classmethod
    def of(cls, name: str, within: Interval | None) -> Flight:
        """The flight of a part of what is named, or of all of it."""
        return cls(name) if within is None else cls(name, _micros(within.start), _micros(within.end))

    def overlaps(self, other: Flight) -> bool:
        """Whether both would fetch the same."""
        return self.name == other.name and self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start} {self.end} {self.name}"

    @classmethod
    def parse(cls, text: str) -> Flight:
        """Read what ``str`` gives."""
        start, end, name = text.split(" ", 2)
        return cls(name, int(start), int(end))
