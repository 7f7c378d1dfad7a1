"""This project's contender: the whole report service, with history and ledger behind the hot tier."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from pydantic import SecretStr

from benchmarks.stampede.setup import CLIENT, FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, SECRET, Fetch, Setup
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ClientCredentials, Settings, StandaloneSettings, VendorAccount
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
    return StandaloneSettings(
        postgres_url=setup.postgres_url,
        redis_url=setup.redis_url,
        accounts={"reportdata": {"main": VendorAccount.model_validate(account | {"clients": [client]})}},
    )


def create_tables(setup: Setup) -> None:
    """Create the tables of history."""
    migrate_history(_settings(setup), {_REPORT.name: _REPORT})


@asynccontextmanager
async def ours(setup: Setup) -> AsyncGenerator[Fetch]:
    """Open the report service."""
    async with open_service(_settings(setup)) as service:
        # Poll as often as the peers, so that the polling schedule makes no difference.
        poller = JobPoller(PollPolicy.guide, guide=GuideSchedule(FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS))
        service = replace(service, job_pollers={"reportdata/main": poller})

        async def fetch(interval: str) -> bytes:
            return (await service.answer(_REPORT, interval)).body

        yield fetch
