"""Reads the rate-limit headers of an answer (G15)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class RateHints:
    """Requests that remain and seconds to wait; None if the vendor sent no readable value."""

    remaining: int | None
    retry_after: float | None


def parse_rate_headers(headers: Mapping[str, str], now: datetime) -> RateHints:
    """Parse `X-RateLimit-Remaining` and `Retry-After`.

    Args:
        headers: Headers of the answer; names in any case if the mapping allows it.
        now: Reference for a Retry-After that is a date, if the answer has no `Date` header.
    """
    remaining = _parse_number(headers.get("X-RateLimit-Remaining"))
    return RateHints(
        remaining=None if remaining is None else math.floor(remaining),
        retry_after=_parse_retry_after(headers.get("Retry-After"), headers.get("Date"), now),
    )


def _parse_retry_after(value: str | None, answered: str | None, now: datetime) -> float | None:
    seconds = _parse_number(value)
    if seconds is not None:
        return max(0.0, seconds)
    until = _parse_date(value)
    if until is None:
        return None
    return max(0.0, (until - (_parse_date(answered) or now)).total_seconds())


def _parse_number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse_date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
