"""The headers of an answer: what a browser, a CDN and a person may know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.settings import GatewaySettings
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.ttl import HOT_TTL, report_freshness

#: A final answer changes by restatement alone; a cache may keep it for so long, and serve it for longer while it looks.
_FINAL_SECONDS = 60
_FINAL_STALE_SECONDS = 600


class CacheStatusSource(StrEnum):
    """Where an answer came from."""

    hot = "hot"
    history = "history"
    vendor = "vendor"


@dataclass(frozen=True)
class AnswerAge:
    """How old an answer's provisional figures are.

    Attributes:
        seconds: since they were fetched; 0 where all is final.
        ttl_seconds: until they are too old, negative when they are; None where all is final.
    """

    seconds: int
    ttl_seconds: int | None

    @property
    def is_stale(self) -> bool:
        """Whether they are older than the report allows without more ado."""
        return self.ttl_seconds is not None and self.ttl_seconds < 0


def answer_age(answer: Answer, report: Report, now: datetime) -> AnswerAge:
    """How old an answer is now."""
    known = answer.completeness
    if known.provisional_from is None or known.fetched_at is None:
        return AnswerAge(0, None)
    age = max(timedelta(0), now - known.fetched_at)
    return AnswerAge(int(age.total_seconds()), math.floor((report_freshness(report) - age).total_seconds()))


def parse_etags(form: MediaFormat, etag: str) -> str:
    """The tag of one form of an answer; each form has its own bytes, so its own tag."""
    return etag if form is MediaFormat.json else f'{etag[:-1]}-{form.name}"'


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether a caller has these bytes already; compared weakly, as RFC 9110 wants it."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags


@dataclass(frozen=True)
class CachePolicy:
    """What is the same for every answer of a gateway.

    Attributes:
        scope: ``public`` or ``private``.
        vary: request headers that an answer depends on. A shared cache must keep each key's answers apart.
    """

    scope: str
    vary: str


def cache_policy(settings: GatewaySettings) -> CachePolicy:
    """The policy of some settings."""
    scope = "public" if settings.shared_caches else "private"
    return CachePolicy(scope, "Accept" if settings.auth == "off" else "Accept, Authorization, X-API-Key")


def cache_control(age: AnswerAge, scope: str) -> str:
    """What caches on the way may do."""
    if age.ttl_seconds is None:
        return f"{scope}, max-age={_FINAL_SECONDS}, stale-while-revalidate={_FINAL_STALE_SECONDS}"
    # A cache counts from the age it is told, so that is added to what the hot tier itself would keep it for.
    fresh = max(1, min(int(HOT_TTL.total_seconds()), age.ttl_seconds))
    return f"{scope}, max-age={age.seconds + fresh}, stale-while-revalidate={fresh}"


def cache_status(source: CacheStatusSource, age: AnswerAge, *, collapsed: bool = False) -> str:
    """What this cache did (RFC 9211)."""
    if source is CacheStatusSource.vendor:
        return f"cache-pipeline; fwd=miss; stored{'; collapsed' if collapsed else ''}"
    ttl = f"; ttl={age.ttl_seconds}" if age.ttl_seconds is not None else ""
    return f"cache-pipeline; hit{ttl}; detail={source}"


def answer_headers(
    answer: Answer,
    form: MediaFormat,
    report: Report,
    source: CacheStatusSource,
    now: datetime,
    *,
    policy: CachePolicy,
    collapsed: bool = False,
) -> dict[str, str]:
    """The headers of a 200 or a 304."""
    age = answer_age(answer, report, now)
    return response_headers(answer.etag, answer.completeness, form, source, age, policy, collapsed=collapsed)


def response_headers(
    etag: str,
    known: Completeness,
    form: MediaFormat,
    source: CacheStatusSource,
    age: AnswerAge,
    policy: CachePolicy,
    *,
    collapsed: bool = False,
) -> dict[str, str]:
    """The same, of an answer that was looked at already."""
    headers = {
        "Content-Type": form.content_type,
        "ETag": parse_etags(form, etag),
        "Cache-Control": cache_control(age, policy.scope),
        "Cache-Status": cache_status(source, age, collapsed=collapsed),
        "AnswerAge": str(age.seconds),
        "Complete-Through": format_instant(known.complete_through),
        "Vary": policy.vary,
    }
    if known.provisional_from is not None:
        headers["Provisional-From"] = format_instant(known.provisional_from)
    return headers
