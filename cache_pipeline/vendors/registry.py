"""The supported vendors, by the name that reports and settings use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from cache_pipeline.errors import SettingsError
from cache_pipeline.upstream.discovery import DiscoverAddresses
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import LoginRequest
from cache_pipeline.vendors.base import VendorAdapter
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter, access_key_login
from cache_pipeline.vendors.cxone.tenant_discovery import discover_cxone
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter

AdapterType = type[GenesysAdapter] | type[ReportDataAdapter] | type[CxoneAdapter]

ADAPTERS: Mapping[str, AdapterType] = {
    adapter.name: adapter for adapter in (GenesysAdapter, ReportDataAdapter, CxoneAdapter)
}
#: Vendors with their own login; the others use OAuth client credentials.
LOGINS: Mapping[str, LoginRequest] = {CxoneAdapter.name: access_key_login}
#: How far back vendors correct figures that were final. Genesys Cloud rewrites settled figures after 48 hours.
REFETCH_WINDOWS: Mapping[str, timedelta] = {GenesysAdapter.name: timedelta(days=3)}
#: Vendors whose API address is discovered before the first request.
DISCOVERIES: Mapping[str, DiscoverAddresses] = {CxoneAdapter.name: discover_cxone}


def create_adapter(name: str, client: httpx.AsyncClient, columns: Mapping[str, str]) -> VendorAdapter:
    """Return the adapter of an account.

    Args:
        name: The vendor's name.
        client: The client that sends its requests.
        columns: The names of columns in the account's files, where they differ from the known ones.

    Raises:
        SettingsError: A column is unknown, or the vendor sends no files.
    """
    adapter = ADAPTERS[name]
    if adapter is CxoneAdapter:
        return CxoneAdapter(client, columns=columns)
    if columns:
        raise SettingsError(f"columns of {name}: this vendor sends no files; remove the setting")
    return adapter(client)
