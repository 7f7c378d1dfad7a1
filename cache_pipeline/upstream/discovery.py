"""Vendors whose API's address is not known before it is asked for: found out once, when the first request is to be sent."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cache_pipeline.upstream.config import UpstreamConfig
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import Send


@dataclass(frozen=True)
class VendorAddresses:
    """Where one vendor connection sends: its API, and its login."""

    base_url: str
    login_url: str


#: Finds out the addresses of a connection whose settings name an issuer; what it sends is no call of the limited API.
DiscoverAddresses = Callable[[UpstreamConfig, Send], Awaitable[VendorAddresses]]


async def resolve_addresses(config: UpstreamConfig, discover: DiscoverAddresses | None, send: Send) -> VendorAddresses:
    """The addresses of a connection, found out where its settings do not tell them.

    Raises:
        DiscoveryFailed, UpstreamUnreachable, UpstreamFaulted, LoginRefused: they could not be found out.
        ValueError: there is nobody to ask, and no login is named.
    """
    return await discover(config, send) if config.issuer and discover else configured_addresses(config)


def configured_addresses(config: UpstreamConfig) -> VendorAddresses:
    """The addresses that the settings name.

    Raises:
        ValueError: they name no login.
    """
    if config.login_url is None:
        raise ValueError(f"{config.platform} has no login_url, and nobody to ask for it")
    return VendorAddresses(config.base_url, config.login_url)


class DiscoveringTransport(httpx.AsyncBaseTransport):
    """Asks where the vendor is before the first request, and sends this and all others there.

    What was found is kept for as long as the connection, which a process has once. A failure is told to all who wait for it and is
    not kept, so that the next request asks again. Requests to anywhere but the stand-in address go where they were meant to.

    Args:
        stand_in: The address that requests bear until the vendor's own is known.
        discover: Finds it out.
        door: Opens the way to it.
        aclose: Closes the connections.
    """

    def __init__(
        self,
        stand_in: httpx.URL,
        discover: Callable[[], Awaitable[VendorAddresses]],
        door: Callable[[VendorAddresses], httpx.AsyncBaseTransport],
        aclose: Callable[[], Awaitable[None]],
    ) -> None:
        self._stand_in = stand_in
        self._discover = discover
        self._door = door
        self._close = aclose
        self._asking: asyncio.Task[VendorAddresses] | None = None
        self._found: tuple[httpx.URL, httpx.AsyncBaseTransport] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request.

        Raises:
            DiscoveryFailed, UpstreamUnreachable, UpstreamFaulted, LoginRefused: The address could not be found out.
            UpstreamError: As whatever sends it says.
        """
        base_url, transport = self._found or await self._find()
        if (request.url.scheme, request.url.netloc) == (self._stand_in.scheme, self._stand_in.netloc):
            request = _moved(request, base_url)
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._asking is not None:
            self._asking.cancel()
        await self._close()

    async def _find(self) -> tuple[httpx.URL, httpx.AsyncBaseTransport]:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._discover())
            # Where everybody has gone, nobody else would hear of its failure.
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        asking = self._asking
        try:
            # Others wait for it too: a caller that goes away does not take it along.
            addresses = await asyncio.shield(asking)
        finally:
            if asking.done() and self._asking is asking:
                self._asking = None
        if self._found is None:
            self._found = httpx.URL(addresses.base_url), self._door(addresses)
        return self._found


def _moved(request: httpx.Request, base_url: httpx.URL) -> httpx.Request:
    headers = request.headers.copy()
    headers["Host"] = base_url.netloc.decode("ascii")
    return httpx.Request(
        request.method,
        request.url.copy_with(scheme=base_url.scheme, host=base_url.host, port=base_url.port),
        headers=headers,
        stream=request.stream,
        extensions=request.extensions,
    )
