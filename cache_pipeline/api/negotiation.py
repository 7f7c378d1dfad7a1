"""Content negotiation: the format of an answer (Accept), and how long to wait for it (Prefer, RFC 7240)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cache_pipeline.api.problems import MEDIA_TYPE, Problem

#: The longest time that a request waits for an answer: less than the 60 seconds after which most proxies give up.
MAX_WAIT_SECONDS = 50.0
#: Clients send few different headers, and a header is at most 32 KB long.
_remember = lru_cache(maxsize=256)


class MediaFormat(StrEnum):
    """The format of an answer, by its media type; the first is the default."""

    json = "application/json"
    csv = "text/csv"
    arrow = "application/vnd.apache.arrow.stream"
    parquet = "application/vnd.apache.parquet"

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""
        return "text/csv; charset=utf-8; header=present" if self is MediaFormat.csv else str(self)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _parse_ranges(accept: str) -> list[tuple[str, float]]:
    ranges: list[tuple[str, float]] = []
    for part in accept.split(","):
        media, *parameters = part.split(";")
        ranges.append((media.strip().lower(), _quality(parameters)))
    return ranges


def _weight(ranges: list[tuple[str, float]], media_type: str) -> float:
    """Return the quality of the most specific range that matches a media type."""
    quality_by_range = dict(ranges)
    type_range = f"{media_type.partition('/')[0]}/*"
    candidates = (media_type, type_range, "*/*")
    return next((quality_by_range[name] for name in candidates if name in quality_by_range), 0.0)


@_remember
def negotiate_format(accept: str | None) -> MediaFormat:
    """Return the format that an Accept header prefers.

    Raises:
        Problem: 406 if the header accepts none of the formats.
    """
    if not accept or not accept.strip():
        return MediaFormat.json
    ranges = _parse_ranges(accept)
    best = max(MediaFormat, key=lambda each: _weight(ranges, each))
    if _weight(ranges, best) <= 0:
        raise Problem("not-acceptable", 406, f"no format matches Accept: expected one of {', '.join(MediaFormat)}")
    return best


@_remember
def accepts_json(accept: str | None) -> bool:
    """Return whether an Accept header admits JSON of any kind, so that its caller can read a job."""
    ranges = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    return any(each in ("*/*", "application/*") or each.endswith(("/json", "+json")) for each in ranges)


@_remember
def prefers_html(accept: str | None) -> bool:
    """Return whether an Accept header prefers a page to JSON, as a browser's does for an address that a person opens."""
    ranges = _parse_ranges(accept or "")
    return _weight(ranges, "text/html") > max(_weight(ranges, each) for each in (MediaFormat.json, MEDIA_TYPE))


@dataclass(frozen=True)
class Preference:
    """The preferences of a Prefer header.

    Attributes:
        wait_seconds: How long the caller prefers to wait rather than receive a 202; 0 if the header does not say.
        applied: The value of Preference-Applied, or None.
    """

    wait_seconds: float
    applied: str | None


_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,9})\"?$", re.IGNORECASE)


@_remember
def parse_prefer(prefer: str | None) -> Preference:
    """Parse the supported preferences, and ignore all others as the RFC requires."""
    wait, is_async = 0.0, False
    for part in (prefer or "").split(","):
        token = part.partition(";")[0].strip()
        if found := _WAIT.match(token):
            wait = min(float(found[1]), MAX_WAIT_SECONDS)
        is_async = is_async or token.lower() == "respond-async"
    if wait:
        return Preference(wait, f"wait={wait:.0f}")
    return Preference(0.0, "respond-async" if is_async else None)


@_remember
def wants_refresh(cache_control: str | None) -> bool:
    """Return whether a request's Cache-Control refuses stored answers (RFC 9111, 5.2.1.4)."""
    return any(part.strip().lower() == "no-cache" for part in (cache_control or "").split(","))
