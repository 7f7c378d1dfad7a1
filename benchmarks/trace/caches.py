"""The caches that replay the trace (ours, the guide's, one by URL), and the cost of their misses for the vendor.

The vendor is modelled by a clock: its watermark is two minutes behind, rounded down to the minute, and it answers at once. A query
costs a submit, a poll that finds it done, and a page per thousand rows. The vendor's limits do not apply to the peers: they get any
interval in one query, and their answers are never truncated.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Protocol

from benchmarks.keys.guide import guide_key
from benchmarks.trace.trace import MEDIA, QUEUES, Request, Window
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.payload import find_report_for
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import clip_to_now
from cache_pipeline.service.plan import StoredSeries, make_plan
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ttl import HOT_TTL, freshness_ttl
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide

LAG = timedelta(minutes=2)
_PAGE = 1000
_TENANT = "default"
REPORT = Report.model_validate(
    {
        "name": "queue_interval",
        "description": "Every queue and medium by quarter hour",
        "platform": "reportdata",
        "query_type": "queue-performance",
        "granularity": "PT15M",
        "time_zone": "Europe/Berlin",
        "group_by": ["queueId", "mediaType"],
        "metrics": ["offered", "answered", "abandoned", "handleMs"],
        "partition": "hour",
        "start": "2026-01-01",
        "fetch": {"max_query_interval": "P1D"},
        "freshness": {"ttl": "PT5M"},
    }
)
RULE = FreshnessRule.of(REPORT)


@dataclass
class VendorCost:
    """What a cache cost the vendor, and the age of what it showed.

    Attributes:
        queries: Upstream queries.
        requests: Requests counted by the quota: submits, polls and pages.
        oldest: Greatest age of provisional figures when they were shown.
    """

    queries: int = 0
    requests: int = 0
    oldest: timedelta = timedelta(0)

    def add(self, rows: int) -> None:
        """Add a query with a number of rows."""
        self.queries += 1
        self.requests += 2 + max(1, ceil(rows / _PAGE))


class Cache(Protocol):
    """A cache that answers requests."""

    cost: VendorCost

    def answer(self, request: Request) -> None:
        """Answer a request and count the queries for what is missing."""
        ...


def watermark(now: datetime) -> datetime:
    """Return the instant up to which the vendor's data is complete."""
    return (now - LAG).replace(second=0, microsecond=0)


def _rows(interval: Interval, bucket: timedelta, groups: int) -> int:
    return max(1, round(interval.length / bucket)) * groups


@dataclass
class Ours:
    """This project's planning, with coverage in memory."""

    cost: VendorCost = field(default_factory=VendorCost)
    _coverage: Coverage = field(default_factory=Coverage)
    _hot: dict[str, datetime] = field(default_factory=dict[str, datetime])

    def answer(self, request: Request) -> None:
        """Answer as ReportService does: from hot, else from history, else fetch the chunks of the plan."""
        requested = find_report_for(read_guide(request.payload), {REPORT.name: REPORT}, ReportDataAdapter.columns)
        key, now = requested.cache_key(_TENANT, "5s"), request.at
        if self._hot.get(key, now) > now:
            return
        elapsed = clip_to_now(requested.interval, requested.declared, now)
        if elapsed is None:
            raise RuntimeError(f"{requested.interval} has not begun")
        query = replace(requested.canonical_query(_TENANT), elapsed=elapsed)
        plan = make_plan(query, StoredSeries(REPORT, ReportDataAdapter.columns(REPORT), self._coverage), (), now)
        for chunk in plan.chunks:
            self._fetch(chunk, now)
        stored = self._coverage.completeness_of(query.available_interval)
        if stored is None or RULE.gaps(self._coverage, IntervalSet([query.available_interval]), now):
            raise RuntimeError(f"{query.available_interval} would be answered with missing or outdated figures")
        if stored.provisional_from is not None and stored.fetched_at is not None:
            self.cost.oldest = max(self.cost.oldest, now - stored.fetched_at)
        self._hot[key] = now + HOT_TTL

    def _fetch(self, chunk: Interval, now: datetime) -> None:
        self.cost.add(_rows(chunk, timedelta(minutes=15), len(QUEUES) * len(MEDIA)))
        cut = watermark(now) - (watermark(now) - chunk.start) % timedelta(minutes=15)
        fetched_part, stored = IntervalSet([chunk]), self._coverage
        final = IntervalSet([Interval(chunk.start, min(cut, chunk.end))]) if cut > chunk.start else IntervalSet()
        rest = [FetchTime(left, each.at) for each in stored.fetch_times if (left := each.intervals - fetched_part)]
        self._coverage = Coverage(
            stored.final | final,
            (stored.provisional - fetched_part) | (fetched_part - final),
            watermark(now),
            (*rest, FetchTime(fetched_part - final, now)) if fetched_part - final else tuple(rest),
        )


@dataclass
class KeyedCache:
    """A cache with a key and a lifetime.

    Attributes:
        by_url: Whether the key is the payload as sent, instead of the guide's normalised key (G6, G7).
    """

    by_url: bool
    cost: VendorCost = field(default_factory=VendorCost)
    _entries: dict[str, tuple[datetime, datetime]] = field(default_factory=dict[str, tuple[datetime, datetime]])

    def answer(self, request: Request) -> None:
        """Answer a request; a miss queries the whole interval."""
        start, end = request.window.bounds(request.at)
        interval = Interval(start, end)
        text = json.dumps(request.payload)
        key = hashlib.sha256(text.encode()).hexdigest() if self.by_url else guide_key(request.payload, "ttl")
        fetched, until = self._entries.get(key, (request.at, request.at))
        if until > request.at:
            # Each window reaches to now, so its last bucket is provisional.
            self.cost.oldest = max(self.cost.oldest, request.at - fetched)
            return
        self.cost.add(_rows(interval, _bucket(request.window), _group_count(request.window)))
        self._entries[key] = (request.at, request.at + freshness_ttl(interval.length))


def _bucket(window: Window) -> timedelta:
    return {"by15Minutes": timedelta(minutes=15), "byHour": timedelta(hours=1)}.get(window.grouping, timedelta(days=1))


def _group_count(window: Window) -> int:
    queues = len(window.queues or QUEUES) if "queueId" in window.group_by else 1
    return queues * (len(MEDIA) if "mediaType" in window.group_by else 1)
