"""Four caches on one trace: ours, the guide's, one by URL, and what each of their misses costs the vendor.

The vendor is a clock: its watermark is two minutes behind, to the whole minute, and it answers at once. A query costs a submit,
a poll that finds it done, and a page for each thousand rows; its rows are those of the groups that were asked for. The peers are
let off the vendor's limits: they get any interval in one query, and their answers are never cut.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Protocol

from benchmarks.keys.guide import guide_key
from benchmarks.trace.trace import MEDIA, QUEUES, Request, Window
from cache_pipeline.fetch.partition_fetch import clip_to_now
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.payload import find_report_for
from cache_pipeline.query.report import Report
from cache_pipeline.service.planner import StoredSeries, make_plan
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.ttl import HOT_TTL, freshness_ttl, report_freshness
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide

LAG = timedelta(minutes=2)
_PAGE = 1000
_TENANT = "default"
REPORT = Report.model_validate(
    {
        "name": "queue_interval",
        "description": "Every queue and medium by quarter of an hour",
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


@dataclass
class Bill:
    """What the vendor was asked.

    Attributes:
        queries: upstream queries.
        requests: what the quota counts: submits, polls and pages.
        oldest: how old the oldest figures were that could still change when they were shown.
    """

    queries: int = 0
    requests: int = 0
    oldest: timedelta = timedelta(0)

    def add(self, rows: int) -> None:
        """One query of so many rows."""
        self.queries += 1
        self.requests += 2 + max(1, ceil(rows / _PAGE))


class Cache(Protocol):
    """One way to answer requests."""

    bill: Bill

    def answer(self, request: Request) -> None:
        """Answer one, asking the vendor for what is not held."""
        ...


def watermark(now: datetime) -> datetime:
    """Until when the vendor's data is complete."""
    return (now - LAG).replace(second=0, microsecond=0)


def _rows(interval: Interval, bucket: timedelta, groups: int) -> int:
    return max(1, round(interval.length / bucket)) * groups


@dataclass
class Ours:
    """The planning of this project, over coverage in memory."""

    bill: Bill = field(default_factory=Bill)
    _coverage: Coverage = field(default_factory=Coverage)
    _hot: dict[str, datetime] = field(default_factory=dict[str, datetime])

    def answer(self, request: Request) -> None:
        """As ReportService does: hot, else what history holds, else the chunks of the plan."""
        wanted = find_report_for(read_guide(request.payload), {REPORT.name: REPORT}, ReportDataAdapter.columns)
        key, now = wanted.cache_key(_TENANT, "5s"), request.at
        if self._hot.get(key, now) > now:
            return
        begun = clip_to_now(wanted.interval, wanted.declared, now)
        if begun is None:
            raise RuntimeError(f"{wanted.interval} has not begun")
        query = replace(wanted.canonical_query(_TENANT), elapsed=begun)
        found = make_plan(query, StoredSeries(REPORT, ReportDataAdapter.columns(REPORT), self._coverage), (), now)
        for chunk in found.chunks:
            self._ask(chunk, now)
        held = self._coverage.completeness_of(query.available_interval)
        if held is None or self._coverage.gaps(IntervalSet([query.available_interval]), now, report_freshness(REPORT)):
            raise RuntimeError(f"{query.available_interval} is answered from figures that are missing or too old")
        if held.provisional_from is not None and held.fetched_at is not None:
            self.bill.oldest = max(self.bill.oldest, now - held.fetched_at)
        self._hot[key] = now + HOT_TTL

    def _ask(self, chunk: Interval, now: datetime) -> None:
        self.bill.add(_rows(chunk, timedelta(minutes=15), len(QUEUES) * len(MEDIA)))
        cut = watermark(now) - (watermark(now) - chunk.start) % timedelta(minutes=15)
        asked, held = IntervalSet([chunk]), self._coverage
        final = IntervalSet([Interval(chunk.start, min(cut, chunk.end))]) if cut > chunk.start else IntervalSet()
        rest = [FetchTime(left, each.at) for each in held.fetch_times if (left := each.intervals - asked)]
        self._coverage = Coverage(
            held.final | final,
            (held.provisional - asked) | (asked - final),
            watermark(now),
            (*rest, FetchTime(asked - final, now)) if asked - final else tuple(rest),
        )


@dataclass
class ByKey:
    """A key and a lifetime: whatever has the key of a request may answer it until its time is up.

    Attributes:
        by_url: whether the key is the payload as it came, or the guide's normalised one (G6, G7).
    """

    by_url: bool
    bill: Bill = field(default_factory=Bill)
    _held: dict[str, tuple[datetime, datetime]] = field(default_factory=dict[str, tuple[datetime, datetime]])

    def answer(self, request: Request) -> None:
        """Ask for the whole interval on a miss."""
        start, end = request.window.bounds(request.at)
        interval = Interval(start, end)
        text = json.dumps(request.payload)
        key = hashlib.sha256(text.encode()).hexdigest() if self.by_url else guide_key(request.payload, "ttl")
        fetched, until = self._held.get(key, (request.at, request.at))
        if until > request.at:
            # Each window reaches to now, so that its last bucket could still change.
            self.bill.oldest = max(self.bill.oldest, request.at - fetched)
            return
        self.bill.add(_rows(interval, _bucket(request.window), _groups(request.window)))
        self._held[key] = (request.at, request.at + freshness_ttl(interval.length))


def _bucket(window: Window) -> timedelta:
    return {"by15Minutes": timedelta(minutes=15), "byHour": timedelta(hours=1)}.get(window.grouping, timedelta(days=1))


def _groups(window: Window) -> int:
    queues = len(window.queues or QUEUES) if "queueId" in window.group_by else 1
    return queues * (len(MEDIA) if "mediaType" in window.group_by else 1)
