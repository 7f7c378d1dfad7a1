"""The contender of this project: the engine, whole, with its history and its ledger behind the hot tier."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from pydantic import SecretStr

from benchmarks.stampede.setup import CLIENT, FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, SECRET, Ask, Setup
from cache_pipeline.bootstrap import migrate_history, open_service
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy

_REPORT = Report.model_validate(
    {
        "name": "queue_hour",
        "description": "Offered by queue, by hour",
        "platform": "reportdata",
        "query_type": "queue-performance",
        "granularity": "PT1H",
        "group_by": ["queueId"],
        "metrics": ["offered"],
        "partition": "day",
        "start": "2024-01-01",
    }
)


def _settings(setup: Setup) -> Settings:
    account = {
        "base_url": setup.vendor_url,
        "login_url": f"{setup.vendor_url}/oauth/token",
        "rate_limit": 100_000,
    }
    client = ClientCredentials(client_id=CLIENT, client_secret=SecretStr(SECRET), weight=1)
    return Settings(
        postgres_url=setup.postgres_url,
        redis_url=setup.redis_url,
        reportdata=VendorAccount.model_validate(account | {"clients": [client]}),
    )


def prepare(setup: Setup) -> None:
    """Create the tables of history."""
    migrate_history(_settings(setup), {_REPORT.name: _REPORT})


@asynccontextmanager
async def ours(setup: Setup) -> AsyncGenerator[Ask]:
    """Open the service."""
    async with open_service(_settings(setup)) as service:
        # As often as the peers ask, so that the length of a wait between two polls decides nothing.
        every = JobPoller(PollPolicy.guide, guide=GuideSchedule(FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS))
        service = replace(service, job_pollers={"reportdata": every})

        async def ask(interval: str) -> bytes:
            return (await service.answer(_REPORT, interval)).body

        yield ask
