"""Response headers of an answer: caching, freshness and completeness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.ttl import HOT_TTL, report_freshness

#: A final answer changes only by restatement. A cache may keep it for this long, and then serve it while revalidating.
_FINAL_MAX_AGE_SECONDS = 60
_FINAL_STALE_SECONDS = 600
#: Figures as they were known at an instant never change, but a person's are forgotten on request.
_IMMUTABLE_MAX_AGE_SECONDS = 3600


class CacheStatusSource(StrEnum):
    """Where an answer came from, as the Cache-Status header names it."""

    hot = "hot"
    history = "history"
    vendor = "vendor"


@dataclass(frozen=True)
class AnswerAge:
    """The age of an answer's provisional figures.

    Attributes:
        seconds: Seconds since they were fetched; 0 if all figures are final.
        ttl_seconds: Seconds until they are stale, negative if they are; None if all figures are final.
    """

    seconds: int
    ttl_seconds: int | None

    @property
    def is_stale(self) -> bool:
        """Whether they are older than the report's freshness allows."""
        return self.ttl_seconds is not None and self.ttl_seconds < 0


def answer_age(answer: Answer, report: Report | LiveReport, now: datetime) -> AnswerAge:
    """Return the age of an answer's provisional figures."""
    completeness = answer.completeness
    if completeness.provisional_from is None or completeness.fetched_at is None:
        return AnswerAge(0, None)
    age = max(timedelta(0), now - completeness.fetched_at)
    fresh_until = completeness.fresh_until or completeness.fetched_at + report_freshness(report)
    return AnswerAge(int(age.total_seconds()), math.floor((fresh_until - now).total_seconds()))


def format_etag(media_format: MediaFormat, etag: str) -> str:
    """Return the ETag of an answer in one format; each format has its own bytes, and so its own tag."""
    return etag if media_format is MediaFormat.json else f'{etag[:-1]}-{media_format.name}"'


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the caller already has these bytes, by the weak comparison of RFC 9110."""
    # A header of very many tags is only taken apart if this one is among them.
    if if_none_match is None or not ("*" in if_none_match or etag.removeprefix("W/") in if_none_match):
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags


@dataclass(frozen=True)
class CachePolicy:
    """Caching rules that are the same for every answer of an API process.

    Attributes:
        scope: ``public`` or ``private``.
        vary: Request headers that an answer depends on. A shared cache must keep the answers of each key apart.
    """

    scope: str
    vary: str


def build_cache_policy(settings: ApiSettings) -> CachePolicy:
    """Return the caching rules that the settings ask for."""
    scope = "public" if settings.shared_caches else "private"
    return CachePolicy(scope, "Accept" if settings.auth == "off" else "Accept, Authorization, X-API-Key")


def cache_control(age: AnswerAge, scope: str, *, is_immutable: bool = False) -> str:
    """Return the Cache-Control header: what browsers and shared caches may do."""
    if is_immutable:
        return f"{scope}, max-age={_IMMUTABLE_MAX_AGE_SECONDS}, immutable"
    if age.ttl_seconds is None:
        return f"{scope}, max-age={_FINAL_MAX_AGE_SECONDS}, stale-while-revalidate={_FINAL_STALE_SECONDS}"
    # A cache counts from the Age header, so add the age to the time that the hot tier itself would keep the answer.
    fresh = max(1, min(int(HOT_TTL.total_seconds()), age.ttl_seconds))
    return f"{scope}, max-age={age.seconds + fresh}, stale-while-revalidate={fresh}"


def cache_status(source: CacheStatusSource, age: AnswerAge, *, is_collapsed: bool = False) -> str:
    """Return the Cache-Status header: what this cache did (RFC 9211)."""
    if source is CacheStatusSource.vendor:
        return f"cache-pipeline; fwd=miss; stored{'; collapsed' if is_collapsed else ''}"
    ttl = f"; ttl={age.ttl_seconds}" if age.ttl_seconds is not None else ""
    return f"cache-pipeline; hit{ttl}; detail={source}"


def answer_headers(
    answer: Answer,
    media_format: MediaFormat,
    report: Report | LiveReport,
    source: CacheStatusSource,
    now: datetime,
    *,
    policy: CachePolicy,
    is_collapsed: bool = False,
    is_immutable: bool = False,
) -> Mapping[str, str]:
    """Return the headers of a 200 or a 304."""
    age = answer_age(answer, report, now)
    return _format_headers(
        answer.etag,
        answer.completeness,
        media_format,
        source,
        age,
        policy,
        is_collapsed=is_collapsed,
        is_immutable=is_immutable,
    )


# Within a second, all readers of an answer receive the same headers.
@lru_cache(maxsize=1024)
def _format_headers(
    etag: str,
    completeness: Completeness,
    media_format: MediaFormat,
    source: CacheStatusSource,
    age: AnswerAge,
    policy: CachePolicy,
    *,
    is_collapsed: bool,
    is_immutable: bool,
) -> Mapping[str, str]:
    headers = {
        "Content-Type": media_format.content_type,
        "ETag": format_etag(media_format, etag),
        "Cache-Control": cache_control(age, policy.scope, is_immutable=is_immutable),
        "Cache-Status": cache_status(source, age, is_collapsed=is_collapsed),
        "Age": str(age.seconds),
        "Complete-Through": format_instant(completeness.complete_through),
        "Vary": policy.vary,
    }
    if completeness.provisional_from is not None:
        headers["Provisional-From"] = format_instant(completeness.provisional_from)
    return MappingProxyType(headers)
