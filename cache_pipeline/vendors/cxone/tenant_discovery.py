"""Where a tenant of NICE CXone has its API: asked of the issuer, at ``/.well-known/cxone-configuration?tenantId=…``.

Documented: that address, the fields ``area`` and ``domain`` of its answer, the API at ``https://api-{area}.{domain}``, the login at
``https://{area}.nice-incontact.com``, and a token's claim ``tenantId``. Assumed: that a token which was got by access key has the
claim too; where it has not, the setting ``tenant_id`` says it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import cast

from cache_pipeline.errors import DiscoveryFailed, SchemaMismatch, UpstreamFaulted, UpstreamRefused, UpstreamUnreachable
from cache_pipeline.upstream.config import Issuer, UpstreamConfig
from cache_pipeline.upstream.discovery import VendorAddresses
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import Login, Send
from cache_pipeline.upstream.response_body import read_whole_body
from cache_pipeline.upstream.retry import MAYBE_SENT, NEVER_SENT, RetriesExhausted, TransientFailure, retry_with_backoff
from cache_pipeline.vendors.cxone.adapter import access_key_login
from cache_pipeline.vendors.json_body import read_object, read_text

_CONFIGURATION = "/.well-known/cxone-configuration"
#: What an address may be made of: nothing that would lead a token to another host, path or port than it seems to.
_AREA = re.compile(r"[A-Za-z0-9-]+")
_DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?")


async def discover_cxone(config: UpstreamConfig, send: Send) -> VendorAddresses:
    """The addresses of the tenant that the settings or the access key's own token name.

    Raises:
        LoginRefused: the token could not be had that says which tenant it is.
        DiscoveryFailed: the issuer knows no such tenant, or what it says is no address.
        UpstreamUnreachable: no answer after bounded repeats.
        UpstreamFaulted: a 5xx that stayed.
    """
    issuer = config.issuer
    if issuer is None:
        raise ValueError("a connection without an issuer has nothing to discover")
    tenant = issuer.tenant_id or await _tenant(config, issuer, send)
    response = await _asked(issuer, tenant, config, send)
    try:
        raise_for_refusal(response)
        told = read_object(response)
        area, domain = read_text(told, "area"), read_text(told, "domain")
    except (UpstreamRefused, SchemaMismatch) as error:
        raise DiscoveryFailed(issuer=issuer.url, reason=str(error)) from error
    if not _AREA.fullmatch(area) or not _DOMAIN.fullmatch(domain):
        raise DiscoveryFailed(issuer=issuer.url, reason=f"area {area!r} and domain {domain!r} make no address")
    base_url = httpx.URL(f"{httpx.URL(issuer.url).scheme}://api-{area}.{domain}")
    if base_url.scheme == "http" and not base_url.host.endswith(".localhost") and not issuer.allow_insecure_http:
        raise DiscoveryFailed(issuer=issuer.url, reason=f"{base_url.host} would be spoken to without TLS")
    return VendorAddresses(
        str(base_url), config.login_url or f"https://{area}.nice-incontact.com/authentication/v1/token/access-key"
    )


async def _asked(issuer: Issuer, tenant: str, config: UpstreamConfig, send: Send) -> httpx.Response:
    request = httpx.Request("GET", issuer.url.rstrip("/") + _CONFIGURATION, params={"tenantId": tenant})

    async def once() -> httpx.Response:
        response = await read_whole_body(await send(request), streamed=False, host=request.url.host)
        response.request = request
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientFailure(response, None)
        return response

    try:
        return await retry_with_backoff(
            once,
            lambda error: isinstance(error, (TransientFailure, *NEVER_SENT, *MAYBE_SENT)),
            config.retries,
            asyncio.sleep,
        )
    except RetriesExhausted as gave_up:
        if isinstance(gave_up.error, TransientFailure):
            raise UpstreamFaulted(
                status=gave_up.error.status,
                method=request.method,
                path=request.url.path,
                attempts=gave_up.attempts,
                message=gave_up.error.vendor_message,
                correlation_id=gave_up.error.correlation_id,
            ) from gave_up.__cause__
        raise UpstreamUnreachable(
            host=request.url.host, reason=f"discovery: {gave_up.reason}", attempts=gave_up.attempts
        ) from gave_up.__cause__


async def _tenant(config: UpstreamConfig, issuer: Issuer, send: Send) -> str:
    """Whose the access key is, by the claim of a token of its own; the token is used for nothing else."""
    if config.login_url is None:
        raise DiscoveryFailed(issuer=issuer.url, reason="neither tenant_id nor login_url is set")
    token = await Login(config.clients[0], config.login_url, send, config.retries, build_request=access_key_login)()
    tenant = _claim(token.value, "tenantId")
    if not tenant:
        raise DiscoveryFailed(
            issuer=issuer.url, reason="the access key's token does not say its tenantId: set tenant_id"
        )
    return tenant


def _claim(token: str, name: str) -> str | None:
    """A claim of a JWT, unproven: who would forge one learns where an API is, and no more."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: object = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    value = cast("dict[str, object]", claims).get(name) if isinstance(claims, dict) else None
    return value if isinstance(value, str) else None
