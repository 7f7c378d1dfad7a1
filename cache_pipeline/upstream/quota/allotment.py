"""What the requests of an account cost of the month's allotment, and when the month runs out at the present pace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: The present pace is that of so many days.
_PACE_DAYS = 7
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Allotment:
    """The allotment of one month, in UTC.

    Attributes:
        monthly: Requests allotted to the month.
        used: Requests of the month so far, of this deployment and those that share its Redis.
        per_day: The present pace.
        now: When these were read.
    """

    monthly: int
    used: int
    per_day: float
    now: datetime

    @classmethod
    def of(cls, monthly: int, usage: Mapping[date, int], now: datetime) -> Allotment:
        """Return the allotment, given the requests of each day.

        Args:
            monthly: Requests allotted to a month.
            usage: Requests by day, in UTC.
            now: The current time.
        """
        now = now.astimezone(UTC)
        today = now.date()
        used = sum(count for day, count in usage.items() if (day.year, day.month) == (today.year, today.month))
        recent = {day: count for day, count in usage.items() if timedelta(0) <= today - day < _PACE_DAYS * _DAY}
        if not recent:
            return cls(monthly, used, 0.0, now)
        began = datetime(*min(recent).timetuple()[:3], tzinfo=UTC)
        # A day that has just begun says little of its pace.
        return cls(monthly, used, sum(recent.values()) / max(1.0, (now - began) / _DAY), now)

    @property
    def month_end(self) -> datetime:
        """The start of the next month."""
        return (self.now.replace(day=28, hour=0, minute=0, second=0, microsecond=0) + 4 * _DAY).replace(day=1)

    @property
    def remaining(self) -> int:
        """Requests of the month that are left."""
        return max(0, self.monthly - self.used)

    @property
    def expected(self) -> int:
        """Requests of the whole month, if the pace stays."""
        return round(self.used + self.per_day * ((self.month_end - self.now) / _DAY))

    @property
    def runs_out_at(self) -> datetime | None:
        """When the month's requests are used up, if the pace stays; None if they last."""
        if not self.remaining:
            return self.now
        if not self.per_day:
            return None
        at = self.now + self.remaining / self.per_day * _DAY
        return at if at < self.month_end else None

    def share(self, calls: float) -> float:
        """Return what so many requests are of the month's allotment."""
        return calls / self.monthly

    def as_document(self, calls: float | None = None) -> dict[str, object]:
        """Return the state of the month as JSON, with the share that some requests take."""
        return {
            "allotted": self.monthly,
            "used": self.used,
            "expected": self.expected,
            "runsOutAt": None if self.runs_out_at is None else self.runs_out_at.isoformat(timespec="seconds"),
            **({} if calls is None else {"share": round(self.share(calls), 6)}),
        }

    def describe(self, calls: float | None = None) -> str:
        """Return the state of the month in a sentence, and what some requests cost of it."""
        cost = "" if calls is None else f"{100 * self.share(calls):,.1f} % of the month's {self.monthly:,} requests; "
        used = f"{self.used:,} of {self.monthly:,} are used"
        if not self.remaining:
            pace = "none are left"
        elif self.runs_out_at is None:
            pace = f"at {self.per_day:,.0f} a day the month takes {self.expected:,}"
        else:
            pace = f"at {self.per_day:,.0f} a day they run out on {self.runs_out_at:%Y-%m-%d}"
        beyond = (
            "" if calls is None or calls <= self.remaining else f"; {calls - self.remaining:,.0f} more than are left"
        )
        return f"{cost}{used}, {pace}{beyond}"
