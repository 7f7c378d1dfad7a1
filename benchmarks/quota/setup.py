"""Interface of the contenders, and the setup they get."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from pydantic import SecretStr

from cache_pipeline.upstream.http import httpx

Send = Callable[[int], Awaitable[None]]
"""Sends one request until it succeeds, including waits and retries. The argument is the number of the sender in its process."""


@dataclass(frozen=True)
class Setup:
    """The vendor, its limit and its clients.

    Attributes:
        vendor_url: URL of the simulator.
        redis_url: URL, with password, of an empty Redis that all processes of this contender share.
        path: Path to request; the answer is 200, or 429 above the limit.
        clients: Secrets by OAuth client id.
        limit: Requests that the vendor accepts from one client in any window (G17).
        reserve: Requests of the limit that the guide's low-water rule leaves unused (G16).
        window: Length of the window in seconds.
        senders: Requests that each process keeps in flight or waiting.
    """

    vendor_url: str
    redis_url: SecretStr
    path: str
    clients: dict[str, SecretStr]
    limit: int
    reserve: int
    window: float
    senders: int

    @property
    def usable(self) -> int:
        """Return the requests per client and window that limit and reserve allow."""
        return self.limit - self.reserve


Contender = Callable[[Setup, httpx.AsyncBaseTransport], AbstractAsyncContextManager[Send]]
"""Opens a process's way of sending over the given transport, which records every answer."""


async def log_in(vendor: httpx.AsyncClient, client_id: str, secret: SecretStr) -> dict[str, str]:
    """Return the authorization header of one OAuth client (G18)."""
    answer = await vendor.post(
        "/oauth/token",
        auth=httpx.BasicAuth(client_id, secret.get_secret_value()),
        data={"grant_type": "client_credentials"},
    )
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds of Retry-After, or None without that header."""
    seconds = answer.headers.get("Retry-After")
    return None if seconds is None else float(seconds)
