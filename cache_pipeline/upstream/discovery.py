"""Finds the API's address, once before the first request, for vendors where an issuer names it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.upstream.config import UpstreamConfig
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.uncounted import Send


@dataclass(frozen=True)
class VendorAddresses:
    """The addresses of one vendor connection: its API and its login."""

    base_url: str
    login_url: str


#: Finds the addresses of a connection whose settings name an issuer; its requests are not calls of the limited API.
DiscoverAddresses = Callable[[UpstreamConfig, Send], Awaitable[VendorAddresses]]


async def resolve_addresses(config: UpstreamConfig, discover: DiscoverAddresses | None, send: Send) -> VendorAddresses:
    """Return the addresses of a connection, discovered if its settings name an issuer.

    Raises:
        DiscoveryFailed, UpstreamUnreachable, UpstreamFaulted, LoginRefused: The addresses could not be discovered.
        ValueError: There is no issuer, and the settings have no login URL.
    """
    return await discover(config, send) if config.issuer and discover else configured_addresses(config)


def configured_addresses(config: UpstreamConfig) -> VendorAddresses:
    """Return the addresses in the settings.

    Raises:
        ValueError: The settings have no login URL.
    """
    if config.login_url is None:
        raise ValueError(f"{config.account} has no login_url and no issuer to discover it from; set login_url")
    return VendorAddresses(config.base_url, config.login_url)


class DiscoveringTransport(httpx.AsyncBaseTransport):
    """Discovers the vendor's address before the first request, and sends all requests there.

    The address is kept as long as the connection, of which a process has one. A failure is raised to every caller that waits for
    the address. It is not kept, so the next request tries again. Requests to any address but the placeholder are sent unchanged.

    Args:
        placeholder: The address in requests until the vendor's own is known.
        discover: Finds the addresses.
        create_transport: Creates the transport to those addresses.
        close: Closes the connections.
    """

    def __init__(
        self,
        placeholder: httpx.URL,
        discover: Callable[[], Awaitable[VendorAddresses]],
        create_transport: Callable[[VendorAddresses], httpx.AsyncBaseTransport],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._placeholder = placeholder
        self._discover = discover
        self._create_transport = create_transport
        self._close = close
        self._discovery: asyncio.Task[VendorAddresses] | None = None
        self._resolved: tuple[httpx.URL, httpx.AsyncBaseTransport] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            DiscoveryFailed, UpstreamUnreachable, UpstreamFaulted, LoginRefused: The address could not be discovered.
            UpstreamError: As raised by the transport that sends the request.
        """
        base_url, transport = self._resolved or await self._resolve()
        if (request.url.scheme, request.url.netloc) == (self._placeholder.scheme, self._placeholder.netloc):
            request = _readdress(request, base_url)
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._discovery is not None:
            await cancel_and_wait([self._discovery])
        await self._close()

    async def _resolve(self) -> tuple[httpx.URL, httpx.AsyncBaseTransport]:
        if self._discovery is None:
            self._discovery = asyncio.ensure_future(self._discover())
            # If every caller has been cancelled, a failure would otherwise be logged as never retrieved.
            self._discovery.add_done_callback(lambda task: task.cancelled() or task.exception())
        discovery = self._discovery
        try:
            # Other callers wait for it too, so a cancelled caller must not cancel it.
            addresses = await asyncio.shield(discovery)
        finally:
            if discovery.done() and self._discovery is discovery:
                self._discovery = None
        if self._resolved is None:
            self._resolved = httpx.URL(addresses.base_url), self._create_transport(addresses)
        return self._resolved


def _readdress(request: httpx.Request, base_url: httpx.URL) -> httpx.Request:
    headers = request.headers.copy()
    headers["Host"] = base_url.netloc.decode("ascii")
    return httpx.Request(
        request.method,
        request.url.copy_with(scheme=base_url.scheme, host=base_url.host, port=base_url.port),
        headers=headers,
        stream=request.stream,
        extensions=request.extensions,
    )
