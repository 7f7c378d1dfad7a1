"""The query service: answers a request from stored data, or queues the job that fetches it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cache_pipeline.aio import wait_for_event
from cache_pipeline.api.auth import ApiKeyCache
from cache_pipeline.api.jobs.queue import JobQueue
from cache_pipeline.api.live_stream import BoardFeeds
from cache_pipeline.api.monitoring.ad_hoc_requests import AdHocRequests
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.monitoring.demand_recorder import DemandRecorder
from cache_pipeline.api.monitoring.manifest_cache import ManifestCache
from cache_pipeline.api.monitoring.shared_results import SharedResults
from cache_pipeline.api.parsing import ParseCache, ParsedQuery
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.rate_limit import RateLimiter
from cache_pipeline.api.rendered_answers import RenderedAnswers
from cache_pipeline.api.response_headers import CachePolicy, CacheStatusSource, build_cache_policy
from cache_pipeline.errors import QueueUnavailable
from cache_pipeline.fair_slots import FairSlots
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.service.cached_answers import Hit, Miss
from cache_pipeline.service.plan import AnswerSource, Plan, QuotaHeadroom
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.service.shared_answers import SharedAnswers
from cache_pipeline.settings import Settings
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.idempotency import IdempotencyKeys
from cache_pipeline.storage.ports.jobs import (
    Admission,
    ApiJob,
    JobEvents,
    JobOutlook,
    JobState,
    JobStore,
    NewJob,
)
from cache_pipeline.storage.ports.status import StatusQueries
from cache_pipeline.storage.ports.submitted_queries import SubmittedQueries
from cache_pipeline.storage.ports.workers import WorkerHeartbeats
from cache_pipeline.telemetry.propagation import current_context
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota

logger = logging.getLogger(__name__)
#: How long the outcome of a finished job counts. A caller that followed the job fetches its answer within this time, and
#: receives it however soon its figures age. And a query that just failed for good is not sent to the vendor again at once.
_RECENT_OUTCOME = timedelta(seconds=30)
_ANY_AGE = timedelta(days=36_500)
#: The assumed duration of a job whose report has no recent jobs.
_DEFAULT_JOB_SECONDS = 5.0
_MAX_RETRY_AFTER_SECONDS = 600
_POLL_SECONDS = 2.0
#: Fewer than the connections to a vendor.
_MAX_PASSING = 16
#: One key takes at most half of these: a crowd of 500 dashboards with one key is answered at once, and even two such crowds leave
#: connections to callers who need not wait.
_MAX_WAITING = 1_000


@dataclass(frozen=True)
class ServedAnswer:
    """An answer and its source.

    Attributes:
        answer: The answer.
        source: Where it came from.
        is_collapsed: Whether the request joined the job of an equivalent request.
    """

    answer: Answer
    source: CacheStatusSource
    is_collapsed: bool = False


@dataclass(frozen=True)
class AcceptedJob:
    """A job in place of an answer.

    Attributes:
        job: The job.
        position: Its position in the queue, 1 being next; None unless it is queued.
        retry_after: Estimated seconds until it is done; None if it is finished.
        is_joined: Whether the job was already open for an equivalent request.
    """

    job: ApiJob
    position: int | None
    retry_after: int | None
    is_joined: bool = False


@dataclass(frozen=True)
class QueryService:
    """Answers a query from stored data, or queues the job that fetches it. Holds everything that a request needs.

    Attributes:
        settings: Settings of the deployment.
        report_service: Answers queries for the deployment's own tenant.
        reports: The declared reports by name.
        live_reports: The declared live reports by name.
        quotas: Policy and quota of each vendor account.
        jobs: The job table.
        queue: The message queue.
        events: Changes of jobs.
        api_keys: Finds the caller of an API key.
        rate_limiter: Limits how often a key may call.
        parse_cache: What URLs were parsed to before.
        counters: Counts for the metrics.
        demand: Records which queries are requested.
        idempotency: Which job an idempotency key led to.
        ad_hoc_requests: Counts the requests for series that are not declared.
        submitted_queries: The queries that were submitted at the vendors' own paths.
        heartbeats: The workers that are alive or lost, for the metrics.
        check_redis: Raises an error unless Redis accepts writes.
        status_queries: The status of reports and jobs, for the metrics.
        manifest_cache: The manifest of the edge store, for the metrics.
        coalescer: Runs equal work of concurrent callers in this process once.
        clock: The current time in UTC.
        open_streams: The event streams that each key has open in this process.
        rendered_answers: Answers in vendors' forms that were rendered lately.
        shared_results: What callers without a key may ask for, made once for all of them.
        board_feeds: What the live page shows, for all that have it open in this process.
        vendor_clients: The clients of the accounts to which requests are passed on.
        passing_slots: Requests that are being passed on in this process, by key.
        shared_answers: What vendors answered to questions that several callers ask alike.
        waiting_slots: Requests that wait for a job in this process, by key.
    """

    settings: Settings
    report_service: ReportService
    reports: Mapping[str, Report]
    live_reports: Mapping[str, LiveReport]
    quotas: Mapping[str, tuple[QuotaPolicy, Quota]]
    jobs: JobStore
    queue: JobQueue
    events: JobEvents
    api_keys: ApiKeyCache
    rate_limiter: RateLimiter
    parse_cache: ParseCache
    counters: ProcessCounters
    demand: DemandRecorder
    idempotency: IdempotencyKeys
    ad_hoc_requests: AdHocRequests
    submitted_queries: SubmittedQueries
    heartbeats: WorkerHeartbeats
    check_redis: Callable[[], Awaitable[None]]
    status_queries: StatusQueries
    manifest_cache: ManifestCache
    shared_answers: SharedAnswers
    coalescer: Coalescer[Any, None]
    clock: Callable[[], datetime]
    open_streams: Counter[str] = field(default_factory=Counter[str])
    rendered_answers: RenderedAnswers = field(default_factory=RenderedAnswers)
    shared_results: SharedResults = field(default_factory=SharedResults)
    board_feeds: BoardFeeds = field(default_factory=BoardFeeds)
    vendor_clients: Mapping[str, httpx.AsyncClient] = field(default_factory=dict[str, "httpx.AsyncClient"])
    passing_slots: FairSlots = field(default_factory=lambda: FairSlots(_MAX_PASSING))
    waiting_slots: FairSlots = field(default_factory=lambda: FairSlots(_MAX_WAITING))

    @cached_property
    def cache_policy(self) -> CachePolicy:
        """What browsers and shared caches may do with answers."""
        return build_cache_policy(self.settings.api)

    def report_service_for(self, tenant: str) -> ReportService:
        """Return the report service of a tenant."""
        service = self.report_service
        return service if tenant == service.tenant else replace(service, tenant=tenant)

    async def serve(
        self, query: ParsedQuery, caller: Principal, *, refresh: bool = False
    ) -> ServedAnswer | AcceptedJob:
        """Answer a query from stored data, or queue the one job for its meaning (G4, G20).

        Args:
            query: The query.
            caller: The API key that sent it.
            refresh: Whether the caller prefers to wait rather than receive stored provisional figures. It is ignored if
                the key may not refresh.

        Raises:
            Problem: The same query failed for good a moment ago.
            InvalidQuery: The figures of an earlier instant are not kept.
        """
        service = self.report_service_for(caller.tenant)
        if query.as_of is not None:
            return ServedAnswer(await service.past_answers.answer(query.query, query.as_of), CacheStatusSource.history)
        answers = service.cached_answers
        if refresh and caller.may_refresh:
            found = await answers.from_history(query.query, self.clock(), final_only=True)
            if isinstance(found, Hit):
                return _served(found)
            return await self.enqueue(replace(query, refresh=True), found.plan, caller)
        found = await answers.lookup(query.query)
        self.demand.record(query.hot_key, query.query, is_hit=isinstance(found, Hit))
        return _served(found) if isinstance(found, Hit) else await self._serve_miss(query, found, caller)

    async def serve_live(self, report: LiveReport, tenant: str) -> ServedAnswer:
        """Answer a live report from the hot tier, or ask the vendor while the caller waits: that takes one request.

        Raises:
            CachePipelineError: The vendor could not be asked.
        """
        answer, is_hot = await self.report_service.live_answers.answer(report, tenant)
        return ServedAnswer(answer, CacheStatusSource.hot if is_hot else CacheStatusSource.vendor)

    async def serve_after_job(self, query: ParsedQuery, caller: Principal) -> ServedAnswer | AcceptedJob:
        """Answer a query whose job has finished, as `serve` does, but without recording demand again."""
        found = await self.report_service_for(caller.tenant).lookup(query.query)
        return _served(found) if isinstance(found, Hit) else await self._serve_miss(query, found, caller)

    async def _serve_miss(self, query: ParsedQuery, miss: Miss, caller: Principal) -> ServedAnswer | AcceptedJob:
        outcome = await self.coalescer.run(
            f"miss {caller.id} {query.key}", lambda _notify: self._resolve_miss(query, miss, caller)
        )
        if isinstance(outcome, AcceptedJob) and outcome.is_joined:
            self.counters.count_joined_request()
        return outcome

    async def _resolve_miss(self, query: ParsedQuery, miss: Miss, caller: Principal) -> ServedAnswer | AcceptedJob:
        answers = self.report_service_for(caller.tenant).cached_answers
        admission = await self.jobs.admit(self._new_job(query, caller), _RECENT_OUTCOME)
        if admission.recent is not None:
            if admission.recent.problem is not None:
                raise job_problem(admission.recent.problem)
            # The age does not matter: the figures were fetched for the callers that ask now.
            if (hit := await answers.stale(miss, _ANY_AGE)) is not None:
                return _served(hit)
            admission = await self.jobs.admit(self._new_job(query, caller))
        accepted = await self._accept(admission, miss.plan, caller)
        # The report may allow figures that are too old to be served while they are fetched again.
        allowance = query.report.freshness.stale_while_revalidate
        hit = await answers.stale(miss, allowance) if allowance is not None else None
        return _served(hit) if hit is not None else accepted

    async def enqueue(self, query: ParsedQuery, plan: Plan, caller: Principal) -> AcceptedJob:
        """Queue the one job for the query's meaning, or join it if it is already open."""
        return await self._accept(await self.jobs.admit(self._new_job(query, caller)), plan, caller)

    def _new_job(self, query: ParsedQuery, caller: Principal) -> NewJob:
        return NewJob(
            key=query.key,
            tenant=caller.tenant,
            report=query.report.name,
            request=query.job_request,
            lane=caller.lane,
            requested_by=caller.id,
            context=current_context(),
        )

    async def _accept(self, admission: Admission, plan: Plan, caller: Principal) -> AcceptedJob:
        """Announce a job that was queued, and estimate from the plan when it is done."""
        job = admission.job
        if job is None:
            raise RuntimeError("a job was neither queued nor joined; this is a bug in the job table's statement")
        logger.info("%s job %s", "queued" if admission.is_created else "joined", job.id, extra={"report": job.report})
        if admission.is_created:
            try:
                await self.queue.publish(str(job.id))
            except QueueUnavailable as error:
                # The row exists, and workers sweep the table for jobs whose message was lost.
                logger.warning("job %s waits until a worker sweeps the job table: %s", job.id, error)
        expected = await self._expected_seconds(plan, caller)
        return self._describe(job, admission.outlook, is_joined=not admission.is_created, expected_seconds=expected)

    async def _expected_seconds(self, plan: Plan, caller: Principal) -> float | None:
        """Return the planned duration in seconds, or None if the plan does not know what the report's queries take."""
        policy, quota = self.quotas.get(plan.query.source_series.report.account_id, (None, None))
        headroom = QuotaHeadroom.of(policy, await quota.snapshot(), caller.lane) if policy and quota else None
        priced = plan.with_headroom(headroom)
        return priced.seconds if priced.cost is not None and priced.cost.is_measured else priced.wait_seconds or None

    async def describe_job(self, job: ApiJob, *, is_joined: bool = False) -> AcceptedJob:
        """Return a job with its queue position and an estimate of when it is done."""
        if job.state.is_finished:
            return AcceptedJob(job, None, None, is_joined)
        return self._describe(job, await self.jobs.outlook(job), is_joined=is_joined)

    async def describe_shared(self, job: ApiJob) -> AcceptedJob:
        """Describe a job; concurrent callers share one read."""
        return await self.coalescer.run(f"describe {job.id} {job.state}", lambda _notify: self.describe_job(job))

    def _describe(
        self, job: ApiJob, outlook: JobOutlook, *, is_joined: bool, expected_seconds: float | None = None
    ) -> AcceptedJob:
        """Return an open job with its position and estimate.

        Args:
            job: The job.
            outlook: What the job table says about it.
            is_joined: Whether the job was already open for an equivalent request.
            expected_seconds: How long it takes once begun, if known; by default as long as recent jobs of its report.
        """
        duration = expected_seconds or outlook.seconds or _DEFAULT_JOB_SECONDS
        if job.state is JobState.queued:
            if outlook.jobs_per_second:
                wait = outlook.jobs_before / outlook.jobs_per_second
            else:
                wait = outlook.jobs_before * duration / self.settings.jobs.concurrency
            return AcceptedJob(job, outlook.jobs_before + 1, _retry_after(wait + duration), is_joined)
        elapsed = (self.clock() - job.started_at).total_seconds() if job.started_at else 0.0
        remaining = elapsed * (100 - job.percent) / job.percent if job.percent else duration - elapsed
        return AcceptedJob(job, None, _retry_after(remaining), is_joined)

    async def wait_for_job(self, job: ApiJob, tenant: str, seconds: float) -> ApiJob:
        """Wait until a job is finished, but no longer than `seconds`, and return it as it is then."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with self.events.subscribe(job.id) as changed:
            while not job.state.is_finished and (remaining := deadline - asyncio.get_running_loop().time()) > 0:
                await wait_for_event(changed, min(remaining, _POLL_SECONDS))
                job = await self.reload_job(job, tenant)
        return job

    async def wait_for_outcome(
        self, query: ParsedQuery, caller: Principal, accepted: AcceptedJob, seconds: float
    ) -> ServedAnswer | AcceptedJob:
        """Wait for a query's job, but no longer than `seconds`, and return its answer, or the job as it is then.

        A key that has very many requests waiting does not wait with one more.

        Raises:
            Problem: The job failed.
        """
        if not self.waiting_slots.try_acquire(caller.id):
            return accepted
        try:
            job = await self.wait_for_job(accepted.job, caller.tenant, seconds)
        finally:
            self.waiting_slots.release(caller.id)
        if job.state is JobState.failed and job.problem is not None:
            raise job_problem(job.problem)
        if job.state is JobState.done:
            outcome = await self.serve_after_job(query, caller)
            if isinstance(outcome, ServedAnswer):
                return ServedAnswer(outcome.answer, CacheStatusSource.vendor, accepted.is_joined)
            return outcome
        return await self.describe_job(job, is_joined=accepted.is_joined)

    async def reload_job(self, job: ApiJob, tenant: str) -> ApiJob:
        """Return a job as its row is now; concurrent callers share one read."""
        found = await self.coalescer.run(f"job {tenant} {job.id}", lambda _notify: self.jobs.get(job.id, tenant))
        return found or job


_SOURCES = {AnswerSource.hot: CacheStatusSource.hot, AnswerSource.history: CacheStatusSource.history}


def _served(hit: Hit) -> ServedAnswer:
    return ServedAnswer(hit.answer, _SOURCES[hit.source])


def job_problem(problem: Mapping[str, object]) -> Problem:
    """Return a job's failure as the problem that callers of its result receive."""
    kind = str(problem["type"]).rpartition(":")[2]
    status = problem["status"]
    return Problem(kind, status if isinstance(status, int) else 502, str(problem["detail"]))


def _retry_after(estimate: float) -> int:
    return max(1, min(_MAX_RETRY_AFTER_SECONDS, math.ceil(estimate)))
