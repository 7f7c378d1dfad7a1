"""The guide's own rules (G15 to G18), each process for itself: a token pool that knows only what this process sent."""

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
    """One OAuth client's token, the instants of what this process sent with it, and the end of its pause."""

    headers: dict[str, str]
    sent: deque[float] = field(default_factory=deque[float])
    paused_until: float = 0.0


class _TokenPool:
    def __init__(self, tokens: list[_Token], setup: Setup) -> None:
        self._tokens = tokens
        self._setup = setup
        self._turn = 0

    async def take(self) -> _Token:
        """Return the next token in turn that is neither throttled nor full, as soon as there is one (G17, G18)."""
        while True:
            now = time.monotonic()
            for step in range(len(self._tokens)):
                token = self._tokens[(self._turn + step) % len(self._tokens)]
                if self._free_at(token, now) <= now:
                    self._turn = (self._turn + step + 1) % len(self._tokens)
                    token.sent.append(now)
                    return token
            await asyncio.sleep(min(self._free_at(token, now) for token in self._tokens) - now)

    def learn(self, token: _Token, answer: httpx.Response) -> None:
        """Pause for Retry-After, or one window, when fewer remain than the reserve or the answer is a 429 (G15, G16)."""
        remaining = answer.headers.get("X-RateLimit-Remaining")
        if answer.status_code == 429 or (remaining is not None and int(remaining) < self._setup.reserve):
            pause = retry_after(answer)
            until = time.monotonic() + (self._setup.window if pause is None else pause)
            token.paused_until = max(token.paused_until, until)

    def _free_at(self, token: _Token, now: float) -> float:
        while token.sent and token.sent[0] <= now - self._setup.window:
            token.sent.popleft()
        full = len(token.sent) >= self._setup.limit
        return max(token.paused_until, token.sent[0] + self._setup.window if full else now)


@asynccontextmanager
async def guide(setup: Setup, wire: httpx.AsyncBaseTransport) -> AsyncGenerator[Send]:
    """Log in every client, then send with any that is free."""
    async with httpx.AsyncClient(transport=wire, base_url=setup.vendor_url, timeout=30.0) as vendor:
        pool = _TokenPool(
            [_Token(await log_in(vendor, client_id, secret)) for client_id, secret in setup.clients.items()], setup
        )

        async def send(_: int) -> None:
            while True:
                token = await pool.take()
                answer = await vendor.get(setup.path, headers=token.headers)
                pool.learn(token, answer)
                if answer.status_code != 429:
                    return

        yield send
