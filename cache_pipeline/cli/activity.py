"""Current activity of a deployment: open upstream queries, jobs of the HTTP API, and the remaining quota."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from cache_pipeline.bootstrap.accounts import open_quotas
from cache_pipeline.query.ad_hoc import PROPOSAL_REQUESTS
from cache_pipeline.settings import Settings
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesInfo
from cache_pipeline.storage.postgres.ad_hoc_series import PostgresAdHocSeries
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.jobs import PostgresJobStore
from cache_pipeline.storage.postgres.ledger import open_ledger
from cache_pipeline.upstream.quota import ClientState

#: Ad hoc series that are shown.
_MAX_AD_HOC = 20


@dataclass(frozen=True)
class ClientHeadroom:
    """One OAuth client: its state, requests that count in its window, and how many more an interactive caller may send."""

    account: str
    client: str
    state: ClientState
    used: int
    limit: int
    remaining: int


@dataclass(frozen=True)
class Activity:
    """What is being done.

    Attributes:
        queries: open upstream queries, by where they stand; ``done`` ones are not kept yet.
        jobs: of the HTTP API, by state.
        ad_hoc: the series of queries that no declared report holds, the most requested first.
        quota: each OAuth client; empty where it could not be read, and ``quota_problem`` says why.
    """

    queries: dict[str, int]
    jobs: dict[str, int]
    ad_hoc: list[AdHocSeriesInfo]
    quota: list[ClientHeadroom] = field(default_factory=list[ClientHeadroom])
    quota_problem: str = ""


async def read_activity(settings: Settings) -> Activity:
    """Ask the ledger, the jobs' table and the shared quota.

    Raises:
        SettingsError: no PostgreSQL URL is set.
        HistoryUnavailable: PostgreSQL cannot be used.
    """
    url = settings.required_postgres_url()

    def queries() -> dict[str, int]:
        with open_ledger(url) as ledger:
            return {str(state): count for state, count in ledger.open_by_state().items()}

    asked = await asyncio.to_thread(queries)
    async with connection_pool(url, 1) as pool:
        jobs = {str(state): count for state, count in (await PostgresJobStore(pool).counts()).items()}
        ad_hoc = await PostgresAdHocSeries(pool, url).all()
    if settings.redis_url is None:
        return Activity(asked, jobs, ad_hoc, quota_problem="CACHE_PIPELINE_REDIS_URL is not set")
    async with open_quotas(settings) as quotas:
        headroom = [
            ClientHeadroom(account, each.client_id, each.state, each.used, policy.limit, each.remaining)
            for account, (policy, quota) in quotas.items()
            for each in await quota.snapshot()
        ]
        # Without Redis a snapshot shows only what this process has sent itself, which is nothing.
        if any(quota.outage_reason for _, quota in quotas.values()):
            return Activity(asked, jobs, ad_hoc, quota_problem="Redis cannot be used: check CACHE_PIPELINE_REDIS_URL")
    return Activity(asked, jobs, ad_hoc, headroom)


def describe_activity(work: Activity) -> Iterator[str]:
    """Return the activity as lines for people."""
    yield f"upstream queries: {_counts(work.queries)}"
    yield f"jobs of the HTTP API: {_counts(work.jobs)}"
    for each in work.ad_hoc[:_MAX_AD_HOC]:
        yield f"ad hoc series {each.name}: {_describe_ad_hoc(each)}"
    if work.quota_problem:
        yield f"quota: {work.quota_problem}"
    for each in work.quota:
        yield f"quota of {each.client} ({each.account}): {each.state}, {each.used} of {each.limit} used"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if count) or "none"


def _describe_ad_hoc(each: AdHocSeriesInfo) -> str:
    declared = each.declaration
    groups = ", ".join(declared["group_by"]) or "nothing"
    proposal = (
        "; declare a report for it (status --json has the declaration)" if each.requests >= PROPOSAL_REQUESTS else ""
    )
    return (
        f"{declared['query_type']} by {groups}, {declared['granularity']}, {', '.join(each.metrics)}: "
        f"{each.requests} requests, the last at {each.last_requested_at:%Y-%m-%d %H:%M}Z{proposal}"
    )
