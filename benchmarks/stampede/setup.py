"""What every contender is given, and the vendor's query that all of them guard."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from cache_pipeline.upstream.http import httpx

CLIENT, SECRET = "demo-client", "demo-secret"
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 1.0
_QUERY = "/api/v2/analytics/reportdata/query"

Ask = Callable[[str], Awaitable[bytes]]
"""Gives the answer for a day (`2024-03-04T00:00:00Z/2024-03-05T00:00:00Z`), as one caller of many."""


@dataclass(frozen=True)
class Setup:
    """Where everything is.

    Attributes:
        vendor_url: Where the simulator listens.
        redis_url: The Redis that all processes of a contender share, empty when it begins; holds a password.
        postgres_url: An empty history, for the contender that has one.
        callers: Identical callers in each process.
        slowest: No query of the vendor takes longer than so many seconds; leases of locks are to outlast it.
    """

    vendor_url: str
    redis_url: SecretStr
    postgres_url: SecretStr
    callers: int
    slowest: int


Contender = Callable[[Setup], AbstractAsyncContextManager[Ask]]
"""Opens one process's way of asking."""


@asynccontextmanager
async def vendor_query(setup: Setup) -> AsyncGenerator[Ask]:
    """Send the plain query that the library guards: submit, poll, read all pages; no cache, no quota."""
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
