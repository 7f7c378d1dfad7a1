"""Whether each OAuth client of each account can log in, and what to do where it cannot."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

from cache_pipeline.bootstrap import VendorConnection
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import DiscoveryFailed, LoginRefused, UpstreamError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.settings import is_loopback
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, Timeouts
from cache_pipeline.upstream.discovery import VendorAddresses, resolve_addresses
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import Login
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter

#: Somebody waits: a login that does not answer at once is detail of, not repeated.
_ONCE = RetryPolicy(max_attempts=1)
_TIMEOUTS = Timeouts(connect=5.0, read=8.0)


async def check_logins(link: VendorConnection) -> list[CheckResult]:
    """Where the vendor is, and one login of each client of an account, side by side; no token is kept."""
    timeout = httpx.Timeout(**asdict(_TIMEOUTS)).as_dict()
    async with httpx.AsyncHTTPTransport(verify=True) as wire:

        async def send(request: httpx.Request) -> httpx.Response:
            request.extensions = {**request.extensions, "timeout": timeout}
            return await wire.handle_async_request(request)

        async def look(client: OAuthClient) -> list[CheckResult]:
            login = Login(client, addresses.login_url, send, _ONCE, build_request=link.login_request)
            subject = f"login of {client.client_id} ({link.config.platform})"
            try:
                token = await login()
            except UpstreamError as error:
                return [_failed(subject, link, error)]
            return [CheckResult(subject, CheckStatus.ok, f"a token that lives {token.lifetime_seconds:,.0f} s")]

        config = link.config.model_copy(update={"retries": _ONCE})
        try:
            addresses = await resolve_addresses(config, link.discover, send)
        except UpstreamError as error:
            return [_failed(f"address of {link.config.platform}", link, error)]
        found = await asyncio.gather(*map(look, link.config.clients))
    return [*_address(link, addresses), *(result for results in found for result in results)]


def _address(link: VendorConnection, addresses: VendorAddresses) -> Iterator[CheckResult]:
    """Where it was found, and a secret that goes over the wire for everybody to read."""
    subject = f"address of {link.config.platform}"
    if link.config.issuer is not None:
        yield CheckResult(subject, CheckStatus.ok, f"{addresses.base_url}, by {link.config.issuer.url}")
    for url in (addresses.login_url, addresses.base_url):
        host = urlsplit(url).hostname or ""
        if urlsplit(url).scheme == "http" and not is_loopback(host) and not host.endswith(".localhost"):
            yield CheckResult(subject, CheckStatus.failed, f"{host} is spoken to without TLS", "write https://")


def _failed(subject: str, link: VendorConnection, error: UpstreamError) -> CheckResult:
    setting = f"CACHE_PIPELINE_{link.config.platform.upper()}"
    detail = str(error).partition("; ")[0]
    if isinstance(error, DiscoveryFailed):
        remedy = f"check issuer and tenant_id in {setting}, or set base_url"
    elif isinstance(error, LoginRefused) and link.platform is CxoneAdapter:
        remedy = f"check that client_id and client_secret in {setting} are an access key's id and secret, and that it is enabled"
    elif isinstance(error, LoginRefused):
        remedy = (
            f"check client_id and client_secret in {setting}, that the client is enabled and that it allows the "
            "client-credentials grant"
        )
    elif isinstance(error, UpstreamUnreachable) and is_about_tls(error):
        remedy = (
            "have the server show a certificate for this name that this machine trusts; an authority of your own goes "
            "into SSL_CERT_FILE"
        )
    elif isinstance(error, UpstreamUnreachable):
        remedy = f"check base_url, region, issuer or login_url in {setting}, and that DNS, proxy and firewall let this machine out"
    elif isinstance(error, UpstreamFaulted):
        remedy = "try again later; the vendor's status page may say more"
    else:
        remedy = f"check {setting}"
    return CheckResult(subject, CheckStatus.failed, detail, remedy)


def is_about_tls(error: BaseException) -> bool:
    """Whether a connection failed for its certificate, or because one side does not speak TLS."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) or "SSL:" in str(seen) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
