"""Reads the facts of a Genesys Cloud organisation: the limits in force, and how long it keeps figures.

Documented: the paths and fields; reading limits needs no permission, reading the retention `analytics:dataRetention:view`. Assumed:
the names of the namespaces, and that these limits are of the client or of jobs. `org.app.user` limits in the list are left alone,
because sources contradict each other on whether clients share them; a 429 that names one is believed.
"""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.dialect import NamedLimit
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.genesys.dialect import read_limit
from cache_pipeline.vendors.json_body import read_mappings, read_object
from cache_pipeline.vendors.spec import AccountFacts

_LIMITS = "/api/v2/organizations/limits/namespaces"
_RETENTION = "/api/v2/analytics/dataretention/settings"
_NAMESPACES = ("platform.api", "analytics")
_CLIENT_LIMIT = "client.credentials.token.rate.per.minute"
_JOB_LIMITS = ("details.jobs.",)


async def read_organisation_facts(client: httpx.AsyncClient) -> AccountFacts:
    """Return the facts; those that the vendor does not report, or that the client may not read, are left out.

    Raises:
        UpstreamError: The vendor cannot be reached, or refused the login.
        SchemaMismatch: An answer does not have the documented shape.
    """
    limits: list[NamedLimit] = []
    for namespace in _NAMESPACES:
        body = await _get(client, f"{_LIMITS}/{namespace}")
        limits += [found for each in read_mappings(body, "entities") if (found := _read_entity(each))] if body else []
    days = (await _get(client, _RETENTION)).get("retentionDays")
    return AccountFacts(tuple(limits), days if isinstance(days, int) and days > 0 and days is not True else None)


def _read_entity(entity: Mapping[str, object]) -> NamedLimit | None:
    key = entity.get("key")
    if not isinstance(key, str) or not (key == _CLIENT_LIMIT or key.startswith(_JOB_LIMITS)):
        return None
    return read_limit(entity)


async def _get(client: httpx.AsyncClient, path: str) -> Mapping[str, object]:
    """Return the answer, or nothing if the vendor refuses it or does not have it."""
    response = await client.get(path, extensions={"lane": Lane.scheduled})
    try:
        raise_for_refusal(response)
        return read_object(response)
    except UpstreamRefused:
        return {}
