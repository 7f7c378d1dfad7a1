"""The guide's quota rules (G15 to G18), applied per process: a token pool that knows only its own process's requests."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.quota.setup import Send, Setup, log_in, retry_after
from cache_pipeline.upstream.http import httpx


@dataclass
class _Token:
    """One OAuth client's token, the times of this process's requests with it, and the end of its pause."""

    headers: dict[str, str]
    sent: deque[float] = field(default_factory=deque[float])
    paused_until: float = 0.0


class _TokenPool:
    def __init__(self, tokens: list[_Token], setup: Setup) -> None:
        self._tokens = tokens
        self._setup = setup
        self._next = 0

    async def take(self) -> _Token:
        """Wait for and return the next token, in turn, that is neither paused nor at its limit (G17, G18)."""
        while True:
            now = time.monotonic()
            for offset in range(len(self._tokens)):
                token = self._tokens[(self._next + offset) % len(self._tokens)]
                if self._free_at(token, now) <= now:
                    self._next = (self._next + offset + 1) % len(self._tokens)
                    token.sent.append(now)
                    return token
            await asyncio.sleep(min(self._free_at(token, now) for token in self._tokens) - now)

    def update(self, token: _Token, answer: httpx.Response) -> None:
        """Pause a token for Retry-After, or one window, if fewer requests remain than the reserve or the answer is 429 (G15, G16)."""
        remaining = answer.headers.get("X-RateLimit-Remaining")
        if answer.status_code == 429 or (remaining is not None and int(remaining) < self._setup.reserve):
            pause = retry_after(answer)
            until = time.monotonic() + (self._setup.window if pause is None else pause)
            token.paused_until = max(token.paused_until, until)

    def _free_at(self, token: _Token, now: float) -> float:
        while token.sent and token.sent[0] <= now - self._setup.window:
            token.sent.popleft()
        is_full = len(token.sent) >= self._setup.limit
        return max(token.paused_until, token.sent[0] + self._setup.window if is_full else now)


@asynccontextmanager
async def guide(setup: Setup, transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Send]:
    """Log in every client, then send with any that is available."""
    async with httpx.AsyncClient(transport=transport, base_url=setup.vendor_url, timeout=30.0) as vendor:
        pool = _TokenPool(
            [_Token(await log_in(vendor, client_id, secret)) for client_id, secret in setup.clients.items()], setup
        )

        async def send(_: int) -> None:
            while True:
                token = await pool.take()
                answer = await vendor.get(setup.path, headers=token.headers)
                pool.update(token, answer)
                if answer.status_code != 429:
                    return

        yield send
