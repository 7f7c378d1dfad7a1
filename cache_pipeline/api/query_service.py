"""What the gateway has in hand while it serves, and what it does with a question: answer, or put a job on the queue."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cache_pipeline.api.auth import ApiKeyCache, Principal
from cache_pipeline.api.jobs.heartbeat import WorkerHeartbeats
from cache_pipeline.api.jobs.idempotency import IdempotencyStore
from cache_pipeline.api.jobs.job import ApiJob, JobState, NewJob
from cache_pipeline.api.jobs.job_events import JobEvents
from cache_pipeline.api.jobs.job_store import JobStore
from cache_pipeline.api.jobs.queue import JobQueue
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.monitoring.demand_counter import DemandRecorder
from cache_pipeline.api.monitoring.manifest_cache import ManifestCache
from cache_pipeline.api.monitoring.status_queries import StatusQueries
from cache_pipeline.api.parsing import ParseCache, ParsedQuery
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.rate_limit import RateLimiter
from cache_pipeline.api.response_headers import CachePolicy, CacheStatusSource, cache_policy
from cache_pipeline.errors import QueueUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.service.planner import QuotaHeadroom
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import Settings
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.telemetry.propagation import current_context
from cache_pipeline.upstream.quota import Quota, QuotaPolicy

_LOG = logging.getLogger(__name__)
#: Whoever followed a job comes for its answer within this time, and gets it however soon its figures age. And a query
#: that just failed for good is not sent to the vendor again at once.
_JUST_ENDED = timedelta(seconds=30)
_EVER = timedelta(days=36_500)
#: What a job is taken to last where nothing is known of its report.
_GUESS_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 600
_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class ServedAnswer:
    """An answer, and where it came from."""

    answer: Answer
    source: CacheStatusSource
    collapsed: bool = False


@dataclass(frozen=True)
class AcceptedJob:
    """A job in place of an answer.

    Attributes:
        job: its row.
        position: in the queue, 1 being next; None when it is not waiting.
        retry_after: seconds until it may be done; None when it has ended.
        joined: whether somebody had asked the same before.
    """

    job: ApiJob
    position: int | None
    retry_after: int | None
    joined: bool = False


@dataclass(frozen=True)
class QueryService:
    """Everything that a request needs.

    Attributes:
        settings: of the deployment.
        service: the engine, for the deployment's own tenant.
        reports: the declarations.
        quotas: of each platform that has an account.
        jobs, queue, events: rows, messages, and word of changes.
        keys, limits: who asks, and how often.
        questions: what URLs were found to mean.
        meter: counts what was done.
        tally: counts what was asked for.
        repeats: which job a request sent again led to.
        presence, standing: which workers are there, and how reports and jobs stand; for whoever watches.
        published: what the edge store offers; likewise.
        sharing: one piece of work for all identical callers of this process.
        clock: the time, in UTC.
    """

    settings: Settings
    service: ReportService
    reports: Mapping[str, Report]
    quotas: Mapping[str, tuple[QuotaPolicy, Quota]]
    jobs: JobStore
    queue: JobQueue
    events: JobEvents
    keys: ApiKeyCache
    limits: RateLimiter
    questions: ParseCache
    meter: ProcessCounters
    tally: DemandRecorder
    repeats: IdempotencyStore
    presence: WorkerHeartbeats
    standing: StatusQueries
    published: ManifestCache
    sharing: Coalescer[Any, None]
    clock: Callable[[], datetime]

    @cached_property
    def caching(self) -> CachePolicy:
        """What caches on the way may do with answers."""
        return cache_policy(self.settings.gateway)

    def service_of(self, tenant: str) -> ReportService:
        """The engine for a tenant."""
        return self.service if tenant == self.service.tenant else replace(self.service, tenant=tenant)

    async def kept(self, asked: ParsedQuery, caller: Principal) -> ServedAnswer | None:
        """The answer from what is kept, where that holds it fresh enough."""
        service = self.service_of(caller.tenant)
        answer = await service.cached_answers.from_hot(asked.query)
        if answer is not None:
            return ServedAnswer(answer, CacheStatusSource.hot)
        answer = await service.cached_answers.lookup(asked.query)
        return ServedAnswer(answer, CacheStatusSource.history) if answer else None

    async def serve(
        self, asked: ParsedQuery, caller: Principal, *, refresh: bool = False
    ) -> ServedAnswer | AcceptedJob:
        """Answer from what is kept, or put the one job of this meaning on the queue (G4, G20).

        Args:
            asked: the question.
            caller: who asks.
            refresh: whether the caller would rather wait than have provisional figures of before; a key that has no
                right to that is answered as ever.

        Raises:
            Problem: the same query failed for good a moment ago.
        """
        if refresh and caller.may_refresh:
            return await self._refreshed(asked, caller)
        served = await self.kept(asked, caller)
        self.tally.asked(asked.hot_key, asked.query, kept=served is not None)
        return served or await self._shared_miss(asked, caller)

    async def _refreshed(self, asked: ParsedQuery, caller: Principal) -> ServedAnswer | AcceptedJob:
        settled = await self.service_of(caller.tenant).cached_answers.final_only(asked.query)
        if settled is not None:
            return ServedAnswer(settled, CacheStatusSource.history)
        return await self.accept(replace(asked, refresh=True), caller)

    async def after(self, asked: ParsedQuery, caller: Principal) -> ServedAnswer | AcceptedJob:
        """As ``serve``, for who has waited for the job: the same question, not asked again."""
        return await self.kept(asked, caller) or await self._shared_miss(asked, caller)

    async def _shared_miss(self, asked: ParsedQuery, caller: Principal) -> ServedAnswer | AcceptedJob:
        missed = await self.sharing.run(f"miss {caller.id} {asked.key}", lambda _tell: self._missed(asked, caller))
        if isinstance(missed, AcceptedJob) and missed.joined:
            self.meter.joined()
        return missed

    async def _missed(self, asked: ParsedQuery, caller: Principal) -> ServedAnswer | AcceptedJob:
        ended = await self.jobs.just_ended(asked.key, _JUST_ENDED)
        if ended is not None and ended.problem is not None:
            raise failed(ended.problem)
        if ended is not None:
            # Whatever its age: it was fetched for whoever asks now.
            answer = await self.service_of(caller.tenant).cached_answers.lookup(asked.query, stale=_EVER)
            if answer is not None:
                return ServedAnswer(answer, CacheStatusSource.history)
        stale = await self._stale(asked, caller)
        accepted = await self.accept(asked, caller)
        return ServedAnswer(stale, CacheStatusSource.history) if stale is not None else accepted

    async def _stale(self, asked: ParsedQuery, caller: Principal) -> Answer | None:
        """Figures that are too old by no more than their declaration lets them be served for meanwhile."""
        allowed = asked.report.freshness.stale_while_revalidate
        if allowed is None:
            return None
        return await self.service_of(caller.tenant).cached_answers.lookup(asked.query, stale=allowed)

    async def accept(self, asked: ParsedQuery, caller: Principal, lane: Lane | None = None) -> AcceptedJob:
        """Put the one job of this meaning on the queue, or join it."""
        new = NewJob(
            key=asked.key,
            tenant=caller.tenant,
            report=asked.report.name,
            request=asked.request,
            lane=lane or caller.lane,
            requested_by=caller.id,
            context=current_context(),
        )
        job, made = await self.jobs.put(new)
        _LOG.info("%s job %s", "put on the queue:" if made else "joined", job.id, extra={"report": job.report})
        if made:
            try:
                await self.queue.publish(str(job.id))
            except QueueUnavailable as error:
                # The row is there, and workers look for rows whose message never came.
                _LOG.warning("job %s waits for the workers' sweep: %s", job.id, error)
        return await self.accepted(job, joined=not made, expected=await self._expected(asked, caller))

    async def _expected(self, asked: ParsedQuery, caller: Principal) -> float | None:
        """Seconds by the plan; None where it knows nothing of what a query of this report takes."""
        policy, quota = self.quotas.get(asked.report.platform, (None, None))
        room = QuotaHeadroom.of(policy, await quota.snapshot(), caller.lane) if policy and quota else None
        plan = await self.service_of(caller.tenant).plan(asked.query, room)
        return plan.seconds if plan.cost is not None and plan.cost.is_measured else plan.wait_seconds or None

    async def accepted(self, job: ApiJob, *, joined: bool = False, expected: float | None = None) -> AcceptedJob:
        """A job with its place in the queue and an estimate of when it is done.

        Args:
            job: its row.
            joined: whether somebody had asked the same before.
            expected: seconds that it will take once begun, where that is known; else as long as the latest of its report.
        """
        if job.state.ended:
            return AcceptedJob(job, None, None, joined)
        pace = await self.jobs.pace(job.report)
        lasts = expected or pace.seconds or _GUESS_SECONDS
        if job.state is JobState.queued:
            ahead = await self.jobs.ahead(job)
            waits = ahead / pace.a_second if pace.a_second else ahead * lasts / self.settings.jobs.at_once
            return AcceptedJob(job, ahead + 1, _seconds(waits + lasts), joined)
        running = (self.clock() - job.started_at).total_seconds() if job.started_at else 0.0
        by_share = running * (100 - job.percent) / job.percent if job.percent else lasts - running
        return AcceptedJob(job, None, _seconds(by_share), joined)

    async def awaited(self, job: ApiJob, tenant: str, seconds: float) -> ApiJob:
        """A job as it is when it has ended, or after so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with self.events.watching(job.id) as changed:
            while not job.state.ended and (left := deadline - asyncio.get_running_loop().time()) > 0:
                await self.events.wait(changed, min(left, _LOOK_AGAIN_SECONDS))
                job = await self.look(job, tenant)
        return job

    async def look(self, job: ApiJob, tenant: str) -> ApiJob:
        """A job as its row is now; one read for all that follow it."""
        found = await self.sharing.run(f"job {tenant} {job.id}", lambda _tell: self.jobs.get(job.id, tenant))
        return found or job


def failed(problem: Mapping[str, object]) -> Problem:
    """A job's failure as an answer to who asks for its result."""
    kind = str(problem["type"]).rpartition(":")[2]
    status = problem["status"]
    return Problem(kind, status if isinstance(status, int) else 502, str(problem["detail"]))


def _seconds(estimate: float) -> int:
    return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(estimate)))
