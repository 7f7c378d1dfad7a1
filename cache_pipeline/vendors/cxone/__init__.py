"""The Data Extraction API of NICE CXone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_pipeline.vendors.cxone.account import CxoneAccount, find_addresses
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter, access_key_login
from cache_pipeline.vendors.cxone.measures import MEASURES
from cache_pipeline.vendors.cxone.permission_check import check_permissions
from cache_pipeline.vendors.spec import RowRules, VendorSpec

if TYPE_CHECKING:
    from cache_pipeline.upstream.config import UpstreamConfig
    from cache_pipeline.upstream.discovery import VendorAddresses
    from cache_pipeline.upstream.uncounted import Send


async def _discover(config: UpstreamConfig, send: Send) -> VendorAddresses:
    # Imported here: it takes what sends requests, which the rules for declarations need not.
    from cache_pipeline.vendors.cxone.tenant_discovery import discover_cxone

    return await discover_cxone(config, send)


VENDOR = VendorSpec(
    name=CxoneAdapter.name,
    account=CxoneAccount,
    adapter=CxoneAdapter,
    create_adapter=lambda client, account: CxoneAdapter(client, columns=account.columns),
    personal_dimensions=frozenset({"ani", "dnis", "userId"}),
    rows={
        "conversations": RowRules(
            key=("conversationId",),
            edge_dimensions=("divisionId", "firstQueueId", "mediaType", "originatingDirection"),
        )
    },
    addresses=find_addresses,
    login_request=access_key_login,
    login_remedy="they are an enabled access key's id and secret",
    discover=_discover,
    check_permissions=check_permissions,
    measures=MEASURES,
    example={
        "query_type": "conversations",
        "group_by": "[queueId]",
        "metrics": "[nOffered, tHandle]",
        "volume_metric": "nOffered",
    },
)
