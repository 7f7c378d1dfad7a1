"""The best available library: pyrate-limiter with its Redis bucket.

Chosen from the libraries with an asyncio Redis back end and recent releases. Only pyrate-limiter keeps an exact log of the sliding
window, decides in one script, returns the exact wait and waits by itself. `throttled-py` waits too, but its sliding window
is the weighted mean of two fixed ones; with an exact window such as this vendor's it both exceeds and wastes the limit. `limits` is
made for servers that refuse: its window is exact, but it cannot wait. None of them reads the vendor's headers, counts requests in
flight, or chooses among tokens.

Used as documented: `RedisBucket.init`, one `Limiter` per OAuth client (a limiter lets one caller wait at a time, so a shared one
would delay clients that are free), `try_acquire_async`, and defaults for everything else. Its rate is the limit less the reserve, as
ours; with the whole limit it would send more and be refused more. Each sender uses one client, and each client has the same number
of senders, because the library cannot choose among clients. After a 429 it waits and retries, as the others do (G18).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import cast

import redis.asyncio
from pyrate_limiter import Limiter, Rate, RedisBucket

from benchmarks.quota.setup import Send, Setup, log_in, retry_after
from cache_pipeline.upstream.http import httpx

NAME = f"pyrate-limiter {version('pyrate-limiter')}"


@asynccontextmanager
async def library(setup: Setup, transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Send]:
    """Log in every client and open its limiter, then send with the client selected by the sender's number."""
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(redis.asyncio.Redis.from_url(setup.redis_url.get_secret_value()))
        vendor = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=setup.vendor_url, timeout=30.0)
        )
        clients: list[tuple[Limiter, dict[str, str]]] = []
        for client_id, secret in setup.clients.items():
            rate = Rate(setup.usable, round(setup.window * 1000))
            # The annotation is wrong: with an asyncio client, init returns an awaitable.
            bucket = await cast("Awaitable[RedisBucket]", RedisBucket.init([rate], shared, client_id))
            limiter = stack.enter_context(Limiter(bucket))
            clients.append((limiter, await log_in(vendor, client_id, secret)))

        async def send(sender: int) -> None:
            limiter, headers = clients[sender % len(clients)]
            while True:
                await limiter.try_acquire_async()
                answer = await vendor.get(setup.path, headers=headers)
                if answer.status_code != 429:
                    return
                pause = retry_after(answer)
                await asyncio.sleep(setup.window if pause is None else pause)

        yield send
