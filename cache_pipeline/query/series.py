"""Queries in canonical form: what coverage is kept for, and what cache keys are made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.zones import canonical_zone, has_same_buckets

_canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Series:
    """A report as one tenant asks for it, without an interval.

    Two declarations that mean the same figures are one series; a changed meaning starts a new one, so that rows of
    the old and the new never mix. How the figures are fetched (delivery, chunk) is not part of the meaning, nor is the
    report's name; but each report has a table of its own, so its series are its own too.
    """

    report: Report
    tenant: str = "default"

    @cached_property
    def canonical_form(self) -> dict[str, object]:
        """The canonical form that keys are made of (G6): sorted, free of duplicates, defaults left out."""
        report = self.report
        meaning: dict[str, object] = {
            "tenant": self.tenant,
            "platform": report.platform,
            "queryType": report.query_type,
            "granularity": report.granularity,
            "groupBy": list(report.group_by),
            "metrics": list(report.metrics),
        }
        if report.rows is not None:
            meaning["rows"] = report.rows
        # A zone that cuts the same buckets as UTC does says nothing.
        if not has_same_buckets(report.step.minutes, report.time_zone, "UTC"):
            meaning["timeZone"] = canonical_zone(report.time_zone)
        if report.filters:
            meaning["filters"] = report.filters.canonical_form
        return meaning

    @cached_property
    def canonical_json(self) -> str:
        """The meaning, and the report whose table holds the rows, as JSON of one form."""
        return _canonical_json({**self.canonical_form, "report": self.report.name})

    @cached_property
    def id(self) -> str:
        """32 hexadecimal digits of the SHA-256 of that."""
        return _digest(self.canonical_json)[:32]


@lru_cache(maxsize=1024)
def make_series(report: Report, tenant: str) -> Series:
    """The series, one object for as long as it is often asked for: telling what it means takes longer than all the rest."""
    return Series(report, tenant)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class CanonicalQuery:
    """A series and the interval wanted of it.

    Attributes:
        series: what is wanted.
        interval: whole buckets of it.
        made_of: the series whose rows are rolled up to it, where it is not kept itself.
        begun: the part whose rows there can be yet, where the last bucket is longer than that.
    """

    series: Series
    interval: Interval
    rollup_source: Series | None = None
    elapsed: Interval | None = None

    @property
    def source_series(self) -> Series:
        """The series that history keeps, whose rows answer the query."""
        return self.rollup_source or self.series

    @property
    def available_interval(self) -> Interval:
        """What must be held of that series."""
        return self.elapsed or self.interval

    def cache_key(self, ttl_tier: str) -> str:
        """``analytics:{query_type}:{sha256}:{ttl_tier}`` (G7); the tenant is part of what is hashed.

        So is the report: an answer bears its name, and is as fresh as it declares.
        """
        digest = _digest(f'{{"interval":"{self.interval}","series":{self.series.canonical_json}}}')
        return f"analytics:{self.series.report.query_type}:{digest}:{ttl_tier}"
