"""The supported vendors, by the name that reports and settings use."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.upstream.discovery import DiscoverAddresses
from cache_pipeline.upstream.oauth import LoginRequest
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
#: Vendors whose API address is discovered before the first request.
DISCOVERIES: Mapping[str, DiscoverAddresses] = {CxoneAdapter.name: discover_cxone}
