"""Whether each OAuth client of each account can log in, and what to do where it cannot."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

from cache_pipeline.service.diagnosis.finding import Finding, Health
from cache_pipeline.service.engine import VendorLink
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, Timeouts
from cache_pipeline.upstream.errors import LoginRefused, UpstreamError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth.login import Login

#: Somebody waits: a login that does not answer at once is told of, not repeated.
_ONCE = RetryPolicy(attempts=1)
_TIMEOUTS = Timeouts(connect=5.0, read=8.0)


async def look_at_logins(link: VendorLink) -> list[Finding]:
    """One login of each client of an account, side by side; no token is kept."""
    timeout = httpx.Timeout(**asdict(_TIMEOUTS)).as_dict()
    async with httpx.AsyncHTTPTransport(verify=True) as wire:

        async def send(request: httpx.Request) -> httpx.Response:
            request.extensions = {**request.extensions, "timeout": timeout}
            return await wire.handle_async_request(request)

        async def look(client: OAuthClient) -> list[Finding]:
            login = Login(client, link.config.login_url, send, _ONCE, form=link.login_request)
            subject = f"login of {client.client_id} ({link.config.platform})"
            try:
                token = await login()
            except UpstreamError as error:
                return [_failed(subject, link, error)]
            return [Finding(subject, Health.ok, f"a token that lives {token.life:,.0f} s")]

        found = await asyncio.gather(*map(look, link.config.clients))
    return [*_address(link), *(finding for findings in found for finding in findings)]


def _address(link: VendorLink) -> Iterator[Finding]:
    """A secret that goes over the wire for everybody to read."""
    for url in (link.config.login_url, link.config.base_url):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            told = f"{parts.hostname} is spoken to without TLS"
            yield Finding(f"address of {link.config.platform}", Health.failed, told, "write https://")


def _failed(subject: str, link: VendorLink, error: UpstreamError) -> Finding:
    setting = f"CACHE_PIPELINE_{link.config.platform.upper()}"
    told = str(error).partition("; ")[0]
    if isinstance(error, LoginRefused):
        mend = (
            f"check client_id and client_secret in {setting}, that the client is enabled and that it allows the "
            "client-credentials grant"
        )
    elif isinstance(error, UpstreamUnreachable) and is_about_tls(error):
        mend = (
            "have the server show a certificate for this name that this machine trusts; an authority of your own goes "
            "into SSL_CERT_FILE"
        )
    elif isinstance(error, UpstreamUnreachable):
        mend = (
            f"check base_url, region or login_url in {setting}, and that DNS, proxy and firewall let this machine out"
        )
    elif isinstance(error, UpstreamFaulted):
        mend = "try again later; the vendor's status page may say more"
    else:
        mend = f"check {setting}"
    return Finding(subject, Health.failed, told, mend)


def is_about_tls(error: BaseException) -> bool:
    """Whether a connection failed for its certificate, or because one side does not speak TLS."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) or "SSL:" in str(seen) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
