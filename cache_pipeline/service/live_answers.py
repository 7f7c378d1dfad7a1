"""Answers of live reports: from the hot tier for half a minute, else from the vendor, once for all callers and processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cache_pipeline.errors import CachePipelineError, PlatformNotConfigured, SchemaMismatch, UpstreamError
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.lane import INTERACTIVE
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.service.names import LookupResult, refresh_lookup
from cache_pipeline.service.recent_failures import RecentFailures
from cache_pipeline.storage.answer import ASKED, Answer, Completeness, LiveDelivery, render_document, render_live
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ports.hot import HotTier
from cache_pipeline.storage.ports.names import NameScope, NameStore
from cache_pipeline.storage.ports.single_flight import SingleFlight
from cache_pipeline.storage.ttl import LIVE_FRESHNESS, LIVE_TTL, LIVE_TTL_TIER
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.spec import LiveKind, LiveRequest, LiveRow, Lookup

if TYPE_CHECKING:
    from cache_pipeline.upstream.http import httpx

logger = logging.getLogger(__name__)
#: For so long after a failure the vendor is not asked again, however many callers and processes there are.
_PAUSE_AFTER_FAILURE = timedelta(seconds=5)
#: How often a listing is read again because of an id that it lacks.
_LISTING_AGE = timedelta(minutes=10)
#: Ids that a process remembers to have looked for. Callers name them, so there may be any number.
_MAX_SOUGHT = 10_000
#: The last column of every live report.
OBSERVED_AT = Column("observed_at", ColumnKind.instant, description="when the vendor was asked")


class NothingListed(UpstreamError):
    """A live report of an account whose listing of ids cannot be read."""

    retryable = True
    http_status = 503
    problem_type = "nothing-listed"


class SharedFailure(UpstreamError):
    """A failure that another process met a moment ago, reported as that process reports it."""

    def __init__(self, message: str, *, http_status: int, problem_type: str, retryable: bool) -> None:
        super().__init__(message)
        self.http_status, self.problem_type, self.retryable = http_status, problem_type, retryable


def live_columns(report: LiveReport) -> tuple[Column, ...]:
    """Return the columns of a live report's answers; this needs no vendor account."""
    return (*find_live_kind(report).columns(report), OBSERVED_AT)


def find_live_kind(report: LiveReport) -> LiveKind:
    """Return the kind of a checked live report."""
    return find_vendor(report.platform).live[report.query_type]


def observed_column(report: LiveReport) -> str:
    """Return the column with the ids of what a checked live report observes."""
    return to_snake_case(find_live_kind(report).dimensions[0])


def live_key(report: LiveReport, tenant: str) -> str:
    """Return the key of a live report's answer in the hot tier (G7)."""
    form = json.dumps({**report.canonical_form, "tenant": tenant}, sort_keys=True, separators=(",", ":"))
    return f"analytics:{report.query_type}:{hashlib.sha256(form.encode()).hexdigest()}:{LIVE_TTL_TIER}"


def document_key(report: LiveReport, tenant: str) -> str:
    """Return the key of what the vendor answered for a live report, in its own form."""
    return f"{live_key(report, tenant)}:document"


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


def failure_key(key: str) -> str:
    """Return the key of the reason why an answer could not be read, in the hot tier."""
    return f"{key}:failure"


def _render_failure(error: CachePipelineError, now: datetime) -> Answer:
    """Return an error as the other processes read it, with what a caller may see of it."""
    document = {
        "message": error.public_text,
        "http_status": error.http_status,
        "problem_type": error.problem_type,
        "retryable": error.retryable,
    }
    return Answer(json.dumps(document).encode(), "", Completeness(now, now, now))


def _read_failure(body: bytes) -> SharedFailure:
    """Return the error that another process met; how it is reported is written with it."""
    return SharedFailure(**json.loads(body))


@dataclass(frozen=True)
class Observed:
    """What the vendor answered for a live report.

    Attributes:
        rows: The answer with the report's rows.
        document: The answer in the vendor's own form.
        seconds: How long it took.
    """

    rows: Answer
    document: Answer
    seconds: float


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
    _failures: RecentFailures = field(default_factory=RecentFailures)
    _recent: dict[str, Answer] = field(default_factory=dict[str, Answer])
    _sought: set[str] = field(default_factory=set[str])
    _listings_sought: dict[tuple[NameScope, str], datetime] = field(
        default_factory=dict[tuple[NameScope, str], datetime]
    )

    async def answer(self, report: LiveReport, tenant: str) -> tuple[Answer, bool]:
        """Return the answer of a live report, and whether it was at hand.

        Raises:
            PlatformNotConfigured: The report's vendor has no account.
            UpstreamError: The vendor refused, or could not be reached; also if that was the case a moment ago.
            SchemaMismatch: The vendor's answer does not have the documented shape.
        """
        return await self.find(live_key(report, tenant), lambda: self.ask(report, tenant))

    async def find(self, key: str, ask: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """Return the answer with a key, and whether it was at hand; else it is asked for, once for all callers and processes.

        Args:
            key: The key.
            ask: Asks the vendor, and stores the answer with that key.

        Raises:
            CachePipelineError: As `ask`; also if that was the case a moment ago.
        """
        entry = await self.hot.get_entry(key)
        if entry is not None:
            if entry.is_refresh_due:
                age_of = entry.answer.completeness.fetched_at
                self.coalescer.run_in_background(key, lambda: self._fetch(key, age_of, ask))
            return entry.answer, True
        # Without Redis each process asks for itself, no more often than with it.
        if (recent := self._recent.get(key)) is not None and self._is_current(recent):
            return recent, True
        return await self.coalescer.run(key, lambda _notify: self._fetch(key, None, ask)), False

    def _is_current(self, answer: Answer) -> bool:
        observed_at = answer.completeness.fetched_at
        return observed_at is not None and self.clock() < observed_at + LIVE_TTL

    async def _fetch(self, key: str, newer_than: datetime | None, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the vendor, unless another process has done so meanwhile.

        Args:
            key: The key of the answer.
            newer_than: The moment of the answer that is at hand; None if there is none.
            ask: Asks the vendor.
        """
        await self._raise_recent_failure(key)
        found: Answer | None = None

        async def is_answered() -> bool:
            nonlocal found
            entry = await self.hot.get_entry(key)
            observed_at = entry.answer.completeness.fetched_at if entry else None
            if entry is not None and (newer_than is None or (observed_at is not None and observed_at > newer_than)):
                found = entry.answer
            else:
                await self._raise_recent_failure(key)
            return found is not None

        async with self.single_flight.acquire(key, is_answered, priority=INTERACTIVE):
            if found is None and not await is_answered():
                try:
                    found = await ask()
                except CachePipelineError as error:
                    await self._share_failure(key, error)
                    raise
        self._failures.forget(key)
        if found is None:
            raise RuntimeError("a live answer was neither found nor asked for; this is a bug in the single flight")
        return found

    async def _share_failure(self, key: str, error: CachePipelineError) -> None:
        now = self.clock()
        self._failures.record(key, error, now, now + _PAUSE_AFTER_FAILURE)
        # What is wrong with this process, such as its settings, is not so with others.
        if isinstance(error, UpstreamError | SchemaMismatch):
            await self.hot.put_for(failure_key(key), _render_failure(error, now), _PAUSE_AFTER_FAILURE)

    async def _raise_recent_failure(self, key: str) -> None:
        """Raise the error that this or another process met a moment ago, instead of asking again."""
        if (error := self._failures.find(key, self.clock())) is not None:
            raise error
        if (entry := await self.hot.get_entry(failure_key(key))) is not None:
            raise _read_failure(entry.answer.body)

    async def ask(self, report: LiveReport, tenant: str, delivery: LiveDelivery = ASKED) -> Answer:
        """Ask the vendor, and keep the answer for the callers of all processes.

        Raises:
            PlatformNotConfigured: The report's vendor has no account.
            UpstreamError: The vendor refused, or could not be reached.
            SchemaMismatch: The vendor's answer does not have the documented shape.
        """
        observed = await self.observe(report, tenant, delivery)
        await self.store(document_key(report, tenant), observed.document, observed.seconds)
        await self.store(live_key(report, tenant), observed.rows, observed.seconds)
        return observed.rows

    async def observe(
        self, report: LiveReport, tenant: str, delivery: LiveDelivery = ASKED, ids: Sequence[str] | None = None
    ) -> Observed:
        """Ask the vendor, and keep nothing. It raises what `ask` raises.

        Args:
            report: The report.
            tenant: The tenant.
            delivery: How the rows come here.
            ids: The ids of what is observed; None for all that the vendor lists.
        """
        if report.account_id not in self.clients:
            raise PlatformNotConfigured(
                f"{report.name} needs {report.account_id}, which has no account: set {report.account_setting()}"
            )
        started, asked_at, client = time.monotonic(), self.clock(), self.clients[report.account_id]
        if ids is None:
            ids = await self.listed_ids(report, tenant)
        reading = await find_live_kind(report).read(client, LiveRequest(report, ids, self.clock))
        rows = await asyncio.to_thread(render_rows, report, reading.rows, asked_at, delivery)
        document = await asyncio.to_thread(render_document, reading.answer, rows.completeness)
        return Observed(rows, document, time.monotonic() - started)

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
        # Callers name the ids of some answers, so there may be any number of keys.
        for past in [each for each, recent in self._recent.items() if not self._is_current(recent)]:
            del self._recent[past]
        self._recent[key] = answer
        if observed_at is not None:
            await self.hot.put_for(key, answer, observed_at + LIVE_TTL - self.clock(), cost)

    async def listed_ids(self, report: LiveReport, tenant: str) -> list[str]:
        """Return the ids of what a report observes; its listing is read if it never was.

        Raises:
            NothingListed: The listing may not be read.
            UpstreamError: It could not be read.
        """
        lookup, scope = _find_lookup(report), NameScope(tenant, report.account_id)
        ids = await asyncio.to_thread(self.names.valid_ids, scope, lookup.name)
        if ids:
            return ids
        state = (await asyncio.to_thread(self.names.state, scope)).get(lookup.name)
        if state is not None and state.listed_at is not None:
            return []
        result = await self._refresh_listing(report, lookup, scope)
        if result.problem is not None:
            raise NothingListed(
                f"{report.name} needs the ids of all {lookup.name}, which may not be read: {result.problem}",
                remedy=f"give the OAuth client a role with {lookup.permission}",
            )
        return await asyncio.to_thread(self.names.valid_ids, scope, lookup.name)

    async def seek_unlisted(self, report: LiveReport, tenant: str, ids: Collection[str | None]) -> None:
        """Read the listing again if it has never had some of these ids, such as that of a queue that was made today.

        Each id causes this once in a process, and all of them at most once in ten minutes in the deployment; where the listing
        cannot be read, once in ten minutes in each process. A vendor that fails is only logged: the listing is read daily.

        Args:
            report: The live report.
            tenant: The tenant.
            ids: Ids of what the report observes.
        """
        unknown = {id_ for id_ in ids if id_ is not None} - self._sought
        if not unknown or report.account_id not in self.clients:
            return
        lookup, scope = _find_lookup(report), NameScope(tenant, report.account_id)
        known = (await asyncio.to_thread(self.names.versions, scope, {lookup.name: unknown})).get(lookup.name, {})
        if len(self._sought) > _MAX_SOUGHT:
            self._sought.clear()
        self._sought.update(known)
        unknown -= known.keys()
        if not unknown or not await self._is_listing_due(lookup, scope):
            return
        self._sought.update(unknown)
        self._listings_sought[scope, lookup.name] = self.clock()
        try:
            await self._refresh_listing(report, lookup, scope)
        except CachePipelineError as error:
            logger.info("%s: the listing of %s could not be read again: %s", report.name, lookup.name, error)

    async def _is_listing_due(self, lookup: Lookup, scope: NameScope) -> bool:
        """Return whether a listing may be read again because of an unknown id."""
        now, sought_at = self.clock(), self._listings_sought.get((scope, lookup.name))
        if sought_at is not None and now - sought_at < _LISTING_AGE:
            return False
        state = (await asyncio.to_thread(self.names.state, scope)).get(lookup.name)
        return state is None or state.listed_at is None or now - state.listed_at >= _LISTING_AGE

    async def _refresh_listing(self, report: LiveReport, lookup: Lookup, scope: NameScope) -> LookupResult:
        client, vendor = self.clients[report.account_id], find_vendor(report.platform)
        return await refresh_lookup(client, vendor, lookup, self.names, scope, self.clock())


def _find_lookup(report: LiveReport) -> Lookup:
    """Return the listing with the ids of what a live report observes."""
    name = find_live_kind(report).lookup
    return next(each for each in find_vendor(report.platform).lookups if each.name == name)
