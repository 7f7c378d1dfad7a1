"""The Analytics API of Genesys Cloud CX."""

from datetime import timedelta

from cache_pipeline.vendors.genesys.account import GenesysAccount, find_addresses
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.deletion_requests import read_deletions
from cache_pipeline.vendors.genesys.dialect import DIALECT
from cache_pipeline.vendors.genesys.live_kinds import LIVE_KINDS
from cache_pipeline.vendors.genesys.lookups import LOOKUPS, read_lookup
from cache_pipeline.vendors.genesys.measures import MEASURES
from cache_pipeline.vendors.genesys.organisation_facts import read_organisation_facts
from cache_pipeline.vendors.genesys.permission_check import check_permissions
from cache_pipeline.vendors.genesys.row_rules import PERSONAL_DIMENSIONS, ROW_RULES
from cache_pipeline.vendors.genesys.served_api import SERVED_API
from cache_pipeline.vendors.spec import VendorSpec

VENDOR = VendorSpec(
    name=GenesysAdapter.name,
    account=GenesysAccount,
    adapter=GenesysAdapter,
    create_adapter=lambda client, _: GenesysAdapter(client),
    personal_dimensions=PERSONAL_DIMENSIONS,
    rows=ROW_RULES,
    addresses=find_addresses,
    dialect=DIALECT,
    check_permissions=check_permissions,
    read_facts=read_organisation_facts,
    read_deletions=read_deletions,
    served=SERVED_API,
    lookups=LOOKUPS,
    read_lookup=read_lookup,
    live=LIVE_KINDS,
    division_dimension="divisionId",
    # Settled figures are rewritten after 48 hours.
    refetch_window=timedelta(days=3),
    measures=MEASURES,
    example={
        "query_type": "conversations",
        "group_by": "[queueId]",
        "metrics": "[nOffered, tHandle]",
        "volume_metric": "nOffered",
    },
)
