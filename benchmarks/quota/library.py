"""The best library there is for it: pyrate-limiter with its Redis bucket.

Chosen among those with an asyncio Redis back end and recent releases. Only pyrate-limiter keeps an exact log of the sliding
window, decides in one script, tells the exact wait and waits by itself. `throttled-py` waits too, but its sliding window
weighs two fixed ones, an approximation that both overshoots and wastes an exact window such as this vendor's. `limits` is made for
servers that refuse: it has an exact window, but no waiting. None of them reads the vendor's headers, counts a request in
flight, or chooses among tokens.

Driven as its documentation says: `RedisBucket.init`, one `Limiter` for each OAuth client (a limiter lets one caller wait at
a time, so one for all clients would hold up the free ones), `try_acquire_async`, everything else at its default. Its rate is
the limit less the reserve, as ours; with the whole limit it would send more and be refused more. Each sender keeps to one
client, equally many to each: that spares the peer a choice that it cannot make. A 429 is waited out and asked again, as by
the others (G18).
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
async def library(setup: Setup, wire: httpx.AsyncBaseTransport) -> AsyncGenerator[Send]:
    """Log in every client and open its limiter, then send with the client that the sender's number selects."""
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(redis.asyncio.Redis.from_url(setup.redis_url.get_secret_value()))
        vendor = await stack.enter_async_context(
            httpx.AsyncClient(transport=wire, base_url=setup.vendor_url, timeout=30.0)
        )
        clients: list[tuple[Limiter, dict[str, str]]] = []
        for client_id, secret in setup.clients.items():
            rate = Rate(setup.usable, round(setup.window * 1000))
            # Typed as if it were never awaited, but with an asyncio client it must be.
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
