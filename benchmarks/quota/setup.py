"""What every contender is given, and what it must be able to do."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from pydantic import SecretStr

from cache_pipeline.upstream.http import httpx

Send = Callable[[int], Awaitable[None]]
"""Sends one request to the end, through refusals and waits; the number tells the senders of a process apart."""


@dataclass(frozen=True)
class Setup:
    """The vendor, its limit and its clients.

    Attributes:
        vendor_url: Where the simulator listens.
        redis_url: An empty Redis that all processes of this contender share; holds a password.
        path: What is asked for; answered 200 unless the limit forbids.
        clients: OAuth client id to its secret.
        limit: Requests the vendor takes of one client in any window (G17).
        reserve: Requests of the limit that the guide's low-water rule leaves unused (G16).
        window: Length of that window in seconds.
        senders: Requests that each process has under way, or waiting, at any time.
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
        """Requests of one client in one window that limit and reserve allow."""
        return self.limit - self.reserve


Contender = Callable[[Setup, httpx.AsyncBaseTransport], AbstractAsyncContextManager[Send]]
"""Opens one process's way of sending, over the wire it is given; that wire notes every answer."""


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
    """Seconds of Retry-After, where the answer has it."""
    told = answer.headers.get("Retry-After")
    return None if told is None else float(told)
