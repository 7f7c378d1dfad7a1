"""Checks that each OAuth client of each vendor account can log in, and says how to fix it if it cannot."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

from cache_pipeline.bootstrap.accounts import VendorConnection
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import DiscoveryFailed, LoginRefused, UpstreamError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.query.report import account_setting
from cache_pipeline.settings import is_loopback
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, Timeouts
from cache_pipeline.upstream.discovery import VendorAddresses, resolve_addresses
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import Login

#: A person waits for the result, so a login that fails is reported, not repeated.
_NO_RETRIES = RetryPolicy(max_attempts=1)
_TIMEOUTS = Timeouts(connect=5.0, read=8.0)


async def check_logins(connection: VendorConnection) -> list[CheckResult]:
    """Resolve the vendor's addresses and log in once with each client of an account, concurrently. No token is kept."""
    timeout = httpx.Timeout(**asdict(_TIMEOUTS)).as_dict()
    async with httpx.AsyncHTTPTransport(verify=True) as transport:

        async def send(request: httpx.Request) -> httpx.Response:
            request.extensions = {**request.extensions, "timeout": timeout}
            return await transport.handle_async_request(request)

        async def check_login(client: OAuthClient) -> list[CheckResult]:
            login = Login(
                client, addresses.login_url, send, _NO_RETRIES, build_request=connection.vendor.find_login_request()
            )
            subject = f"login of {client.client_id} ({connection.config.account})"
            try:
                token = await login()
            except UpstreamError as error:
                return [_failed(subject, connection, error)]
            return [
                CheckResult(
                    subject, CheckStatus.ok, f"logged in; the token is valid for {token.lifetime_seconds:,.0f} s"
                )
            ]

        config = connection.config.model_copy(update={"retries": _NO_RETRIES})
        try:
            addresses = await resolve_addresses(config, connection.vendor.discover, send)
        except UpstreamError as error:
            return [_failed(f"address of {connection.config.account}", connection, error)]
        found = await asyncio.gather(*map(check_login, connection.config.clients))
    return [*_check_addresses(connection, addresses), *(result for results in found for result in results)]


def _check_addresses(connection: VendorConnection, addresses: VendorAddresses) -> Iterator[CheckResult]:
    """Report the discovered address, and fail addresses to which secrets would go unencrypted."""
    subject = f"address of {connection.config.account}"
    if connection.config.issuer is not None:
        yield CheckResult(
            subject, CheckStatus.ok, f"{addresses.base_url}, found through {connection.config.issuer.url}"
        )
    for url in (addresses.login_url, addresses.base_url):
        host = urlsplit(url).hostname or ""
        if urlsplit(url).scheme == "http" and not is_loopback(host) and not host.endswith(".localhost"):
            yield CheckResult(
                subject, CheckStatus.failed, f"requests to {host} do not use TLS", "use an https:// address"
            )


def _failed(subject: str, connection: VendorConnection, error: UpstreamError) -> CheckResult:
    setting = account_setting(connection.config.account)
    detail = str(error).partition("; ")[0]
    if isinstance(error, DiscoveryFailed):
        remedy = f"check how {setting} names the issuer and the tenant, or set base_url"
    elif isinstance(error, LoginRefused):
        remedy = (
            f"check that client_id and client_secret in {setting} are right, and that {connection.vendor.login_remedy}"
        )
    elif isinstance(error, UpstreamUnreachable) and is_tls_error(error):
        remedy = (
            "install a certificate for this name that this machine trusts, or set SSL_CERT_FILE to your own authority's "
            "certificate"
        )
    elif isinstance(error, UpstreamUnreachable):
        remedy = f"check the addresses in {setting}, and that DNS, proxy and firewall let this machine reach it"
    elif isinstance(error, UpstreamFaulted):
        remedy = "try again later; see the vendor's status page"
    else:
        remedy = f"check {setting}"
    return CheckResult(subject, CheckStatus.failed, detail, remedy)


def is_tls_error(error: BaseException) -> bool:
    """Return whether a connection failed because of its certificate, or because one side does not use TLS."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) or "SSL:" in str(seen) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
