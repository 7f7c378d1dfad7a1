"""Answers of live reports: from the hot tier for half a minute, else from the vendor, once for all callers and processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from cache_pipeline.errors import CachePipelineError, PlatformNotConfigured, UpstreamError
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema
from cache_pipeline.service.names import refresh_lookup
from cache_pipeline.storage.answer import ASKED, Answer, LiveDelivery, render_live
from cache_pipeline.storage.base import HotTier, NameScope, NameStore, SingleFlight
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ttl import LIVE_FRESHNESS, LIVE_TTL, LIVE_TTL_TIER
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.spec import LiveKind, LiveRequest, LiveRow

if TYPE_CHECKING:
    from cache_pipeline.upstream.http import httpx

#: For so long after a failure this process does not ask again, however many callers it has.
_PAUSE_AFTER_FAILURE = timedelta(seconds=5)
#: The last column of every live report.
OBSERVED_AT = Column("observed_at", ColumnKind.instant, description="when the vendor was asked")


class NothingListed(UpstreamError):
    """A live report of an account whose listing of ids cannot be read."""

    retryable = True
    http_status = 503
    problem_type = "nothing-listed"


def live_columns(report: LiveReport) -> tuple[Column, ...]:
    """Return the columns of a live report's answers; this needs no vendor account."""
    return (*find_live_kind(report).columns(report), OBSERVED_AT)


def find_live_kind(report: LiveReport) -> LiveKind:
    """Return the kind of a checked live report."""
    return find_vendor(report.platform).live[report.query_type]


def live_key(report: LiveReport, tenant: str) -> str:
    """Return the key of a live report's answer in the hot tier (G7)."""
    form = json.dumps({**report.canonical_form, "tenant": tenant}, sort_keys=True, separators=(",", ":"))
    return f"analytics:{report.query_type}:{hashlib.sha256(form.encode()).hexdigest()}:{LIVE_TTL_TIER}"


def render_rows(
    report: LiveReport, rows: Sequence[LiveRow], asked_at: datetime, delivery: LiveDelivery = ASKED
) -> Answer:
    """Return the answer with these rows. This blocks.

    Args:
        report: The report.
        rows: Its rows.
        asked_at: When the vendor was asked, for an answer without rows.
        delivery: How they came here.
    """
    columns = live_columns(report)
    names = {column.name for column in columns}
    schema = pa.schema([each for each in to_arrow_schema(columns) if each.name in names])
    table = rows_to_table([{**row.values, OBSERVED_AT.name: row.observed_at} for row in rows], schema)
    keys = [column.name for column in columns if column.kind is ColumnKind.dimension]
    observed_at = min((row.observed_at for row in rows), default=asked_at)
    return render_live(
        report.name,
        table.sort_by([(name, "ascending") for name in keys]),
        observed_at,
        observed_at + LIVE_FRESHNESS,
        delivery,
    )


@dataclass(frozen=True)
class _Failure:
    error: CachePipelineError
    until: datetime


@dataclass(frozen=True)
class LiveAnswers:
    """Reads the answers of live reports.

    Attributes:
        clients: The HTTP client of each vendor account, whose requests count against the shared quota.
        hot: The tier that holds answers, for all processes.
        names: The names of ids, which say what there is to observe.
        single_flight: Lets one process at a time ask for a report.
        coalescer: Shares one task between all callers of this process.
        clock: The current time, in UTC.
    """

    clients: Mapping[str, httpx.AsyncClient]
    hot: HotTier
    names: NameStore
    single_flight: SingleFlight
    coalescer: Coalescer[Answer, None]
    clock: Callable[[], datetime]
    _failures: dict[str, _Failure] = field(default_factory=dict[str, _Failure])
    _recent: dict[str, Answer] = field(default_factory=dict[str, Answer])

    async def answer(self, report: LiveReport, tenant: str) -> tuple[Answer, bool]:
        """Return the answer of a live report, and whether it was at hand.

        Raises:
            PlatformNotConfigured: The report's vendor has no account.
            UpstreamError: The vendor refused, or could not be reached; also if that was the case a moment ago.
            SchemaMismatch: The vendor's answer does not have the documented shape.
        """
        key = live_key(report, tenant)
        entry = await self.hot.get_entry(key)
        if entry is not None:
            if entry.is_refresh_due:
                age_of = entry.answer.completeness.fetched_at
                self.coalescer.run_in_background(key, lambda: self._fetch(report, tenant, key, age_of))
            return entry.answer, True
        # Without Redis each process asks for itself, no more often than with it.
        if (recent := self._recent.get(key)) is not None and self._is_current(recent):
            return recent, True
        return await self.coalescer.run(key, lambda _notify: self._fetch(report, tenant, key, None)), False

    def _is_current(self, answer: Answer) -> bool:
        observed_at = answer.completeness.fetched_at
        return observed_at is not None and self.clock() < observed_at + LIVE_TTL

    async def _fetch(self, report: LiveReport, tenant: str, key: str, newer_than: datetime | None) -> Answer:
        """Ask the vendor, unless another process has done so meanwhile.

        Args:
            report: The report.
            tenant: The tenant.
            key: The key of the answer.
            newer_than: The moment of the answer that is at hand; None if there is none.
        """
        failure = self._failures.get(key)
        if failure is not None and self.clock() < failure.until:
            raise failure.error
        found: Answer | None = None

        async def is_answered() -> bool:
            nonlocal found
            entry = await self.hot.get_entry(key)
            observed_at = entry.answer.completeness.fetched_at if entry else None
            if entry is not None and (newer_than is None or (observed_at is not None and observed_at > newer_than)):
                found = entry.answer
            return found is not None

        async with self.single_flight.acquire(key, is_answered, lane=Lane.interactive):
            if found is None and not await is_answered():
                try:
                    found = await self.ask(report, tenant)
                except CachePipelineError as error:
                    self._failures[key] = _Failure(error, self.clock() + _PAUSE_AFTER_FAILURE)
                    raise
        self._failures.pop(key, None)
        if found is None:
            raise RuntimeError("a live answer was neither found nor asked for; this is a bug in the single flight")
        return found

    async def ask(self, report: LiveReport, tenant: str, delivery: LiveDelivery = ASKED) -> Answer:
        """Ask the vendor, and keep the answer for the callers of all processes.

        Raises:
            PlatformNotConfigured: The report's vendor has no account.
            UpstreamError: The vendor refused, or could not be reached.
            SchemaMismatch: The vendor's answer does not have the documented shape.
        """
        if report.account_id not in self.clients:
            raise PlatformNotConfigured(
                f"{report.name} needs {report.account_id}, which has no account: set {report.account_setting()}"
            )
        started, asked_at, client = time.monotonic(), self.clock(), self.clients[report.account_id]
        ids = await self.listed_ids(report, tenant)
        rows = await find_live_kind(report).read(client, LiveRequest(report, ids, self.clock))
        answer = await asyncio.to_thread(render_rows, report, rows, asked_at, delivery)
        await self.store(live_key(report, tenant), answer, time.monotonic() - started)
        return answer

    async def due_at(self, key: str, age: timedelta) -> datetime:
        """Return when the figures at hand reach an age; now if there are none."""
        entry = await self.hot.get_entry(key)
        observed_at = entry.answer.completeness.fetched_at if entry else None
        return self.clock() if observed_at is None else observed_at + age

    async def store(self, key: str, answer: Answer, cost: float = 0.0) -> None:
        """Keep an answer for the callers of all processes until it is too old.

        Args:
            key: Its key.
            answer: The answer.
            cost: Seconds that it took.
        """
        observed_at = answer.completeness.fetched_at
        self._recent[key] = answer
        if observed_at is not None and (life := observed_at + LIVE_TTL - self.clock()) > timedelta(0):
            await self.hot.put_for(key, answer, life, cost)

    async def listed_ids(self, report: LiveReport, tenant: str) -> list[str]:
        """Return the ids of what a report observes; its listing is read if it never was.

        Raises:
            NothingListed: The listing may not be read.
            UpstreamError: It could not be read.
        """
        vendor, scope = find_vendor(report.platform), NameScope(tenant, report.account_id)
        lookup = next(each for each in vendor.lookups if each.name == find_live_kind(report).lookup)
        ids = await asyncio.to_thread(self.names.valid_ids, scope, lookup.name)
        if ids:
            return ids
        state = (await asyncio.to_thread(self.names.state, scope)).get(lookup.name)
        if state is not None and state.listed_at is not None:
            return []
        result = await refresh_lookup(self.clients[report.account_id], vendor, lookup, self.names, scope, self.clock())
        if result.problem is not None:
            raise NothingListed(
                f"{report.name} needs the ids of all {lookup.name}, which may not be read: {result.problem}",
                remedy=f"give the OAuth client a role with {lookup.permission}",
            )
        return await asyncio.to_thread(self.names.valid_ids, scope, lookup.name)
