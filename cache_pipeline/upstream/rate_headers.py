"""What an answer's headers say about the rate limit (G15)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class RateHints:
    """Requests that remain and seconds to wait, as far as the vendor said so in a form that can be read."""

    remaining: int | None
    retry_after: float | None


def read_hints(headers: Mapping[str, str], now: datetime) -> RateHints:
    """Reads `X-RateLimit-Remaining` and `Retry-After`.

    Args:
        headers: Of the answer; names in any case if the mapping allows it.
        now: For a Retry-After given as a date, where the answer has no `Date` of its own to measure from.
    """
    remaining = _number(headers.get("X-RateLimit-Remaining"))
    return RateHints(
        remaining=None if remaining is None else math.floor(remaining),
        retry_after=_retry_after(headers.get("Retry-After"), headers.get("Date"), now),
    )


def _retry_after(value: str | None, answered: str | None, now: datetime) -> float | None:
    seconds = _number(value)
    if seconds is not None:
        return max(0.0, seconds)
    until = _date(value)
    if until is None:
        return None
    return max(0.0, (until - (_date(answered) or now)).total_seconds())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
