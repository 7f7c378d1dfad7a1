"""Interface of the contenders, their setup, and the vendor query that the libraries guard."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from cache_pipeline.upstream.http import httpx

CLIENT, SECRET = "demo-client", "demo-secret"
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 1.0
_QUERY = "/api/v2/analytics/reportdata/query"

Fetch = Callable[[str], Awaitable[bytes]]
"""Returns the answer for an interval (`2024-03-04T00:00:00Z/2024-03-05T00:00:00Z`) to one of many callers."""


@dataclass(frozen=True)
class Setup:
    """Addresses of the servers, and parameters.

    Attributes:
        vendor_url: URL of the simulator.
        redis_url: URL, with password, of the Redis that all processes of a contender share; empty at the start.
        postgres_url: URL of an empty PostgreSQL, for the contender with history.
        callers: Identical callers in each process.
        max_query_seconds: Upper bound for a vendor query in seconds. Locks must be leased for longer.
    """

    vendor_url: str
    redis_url: SecretStr
    postgres_url: SecretStr
    callers: int
    max_query_seconds: int


Contender = Callable[[Setup], AbstractAsyncContextManager[Fetch]]
"""Opens the contender in one process."""


@asynccontextmanager
async def vendor_query(setup: Setup) -> AsyncGenerator[Fetch]:
    """Yield the plain query that a library guards: submit, poll and read all pages, without cache or quota."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=setup.vendor_url, limits=limits, timeout=120, trust_env=False) as vendor:
        login = await vendor.post(
            "/oauth/token", auth=httpx.BasicAuth(CLIENT, SECRET), data={"grant_type": "client_credentials"}
        )
        vendor.headers["Authorization"] = f"Bearer {login.raise_for_status().json()['access_token']}"

        async def query(interval: str) -> bytes:
            body = {"reportId": "queue-performance", "timeGrouping": "byHour", "interval": interval}
            submitted = await vendor.post(
                f"{_QUERY}/async", json=body | {"groupBy": ["queueId"], "columns": ["offered"]}
            )
            path = f"{_QUERY}/{submitted.raise_for_status().json()['id']}"
            wait = FIRST_POLL_SECONDS
            while (await vendor.get(path)).raise_for_status().json()["status"] != "completed":
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_POLL_SECONDS)
            return (await vendor.get(f"{path}/results", params={"pageSize": "1000"})).raise_for_status().content

        yield query
