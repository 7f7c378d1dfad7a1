"""Discovery of a NICE CXone tenant's API address from the issuer's ``/.well-known/cxone-configuration?tenantId=…``.

The vendor documents that address, the fields ``area`` and ``domain`` of its answer, the API at ``https://api-{area}.{domain}``,
the login at ``https://{area}.nice-incontact.com``, and the claim ``tenantId`` of a token. We assume that a token from an access
key has this claim too; if it does not, the setting ``tenant_id`` supplies the tenant.
"""

from __future__ import annotations

import base64
import json
import re
from typing import cast

from cache_pipeline.errors import DiscoveryFailed, SchemaMismatch, UpstreamRefused
from cache_pipeline.upstream.config import Issuer, UpstreamConfig
from cache_pipeline.upstream.discovery import VendorAddresses
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import Login
from cache_pipeline.upstream.uncounted import Send, send_uncounted
from cache_pipeline.vendors.cxone.adapter import access_key_login
from cache_pipeline.vendors.json_body import read_object, read_text

_CONFIGURATION_PATH = "/.well-known/cxone-configuration"
#: Allowed parts of an address. Nothing in them can direct a token to another host, path or port than it appears to.
_AREA = re.compile(r"[A-Za-z0-9-]+")
_DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?")


async def discover_cxone(config: UpstreamConfig, send: Send) -> VendorAddresses:
    """Return the addresses of the tenant that the settings, or else the access key's own token, name.

    Raises:
        LoginRefused: The login for the token that names the tenant was refused.
        DiscoveryFailed: The issuer does not know the tenant, or its answer is not a valid address.
        UpstreamUnreachable: There was no answer after all retries.
        UpstreamFaulted: The issuer still answered 5xx after all retries.
    """
    issuer = config.issuer
    if issuer is None:
        raise ValueError("cannot discover an address without an issuer; set issuer")
    tenant = issuer.tenant_id or await _tenant_of_access_key(config, issuer, send)
    request = httpx.Request("GET", issuer.url.rstrip("/") + _CONFIGURATION_PATH, params={"tenantId": tenant})
    response = await send_uncounted(send, request, config.retries, purpose="discovery")
    try:
        raise_for_refusal(response)
        configuration = read_object(response)
        area, domain = read_text(configuration, "area"), read_text(configuration, "domain")
    except (UpstreamRefused, SchemaMismatch) as error:
        raise DiscoveryFailed(issuer=issuer.url, reason=str(error)) from error
    if not _AREA.fullmatch(area) or not _DOMAIN.fullmatch(domain):
        raise DiscoveryFailed(
            issuer=issuer.url, reason=f"area {area!r} and domain {domain!r} do not form a valid address"
        )
    base_url = httpx.URL(f"{httpx.URL(issuer.url).scheme}://api-{area}.{domain}")
    if base_url.scheme == "http" and not base_url.host.endswith(".localhost") and not issuer.allow_insecure_http:
        raise DiscoveryFailed(issuer=issuer.url, reason=f"{base_url.host} would be reached without TLS")
    return VendorAddresses(
        str(base_url), config.login_url or f"https://{area}.nice-incontact.com/authentication/v1/token/access-key"
    )


async def _tenant_of_access_key(config: UpstreamConfig, issuer: Issuer, send: Send) -> str:
    """Return the tenant of the access key, from a claim of its token; the token is used for nothing else."""
    if config.login_url is None:
        raise DiscoveryFailed(issuer=issuer.url, reason="the tenant is unknown: set tenant_id or login_url")
    token = await Login(config.clients[0], config.login_url, send, config.retries, build_request=access_key_login)()
    tenant = _claim(token.value, "tenantId")
    if not tenant:
        raise DiscoveryFailed(issuer=issuer.url, reason="the access key's token has no claim tenantId: set tenant_id")
    return tenant


def _claim(token: str, name: str) -> str | None:
    """Return a claim of a JWT without verifying the token. A forged token would only reveal the address of an API."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: object = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    value = cast("dict[str, object]", claims).get(name) if isinstance(claims, dict) else None
    return value if isinstance(value, str) else None
