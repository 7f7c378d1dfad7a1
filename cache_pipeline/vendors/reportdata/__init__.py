"""The report-data API of the user's guide (G1 to G3)."""

from cache_pipeline.upstream.dialect import Dialect
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.lookups import LOOKUPS, read_lookup
from cache_pipeline.vendors.reportdata.measures import MEASURES
from cache_pipeline.vendors.reportdata.query_payload import PAYLOAD_EXAMPLES, read_guide
from cache_pipeline.vendors.reportdata.served_api import SERVED_API
from cache_pipeline.vendors.spec import AddressedAccount, VendorSpec

VENDOR = VendorSpec(
    name=ReportDataAdapter.name,
    account=AddressedAccount,
    adapter=ReportDataAdapter,
    create_adapter=lambda client, _: ReportDataAdapter(client),
    dialect=Dialect(request_id_fields=("contextId",)),
    personal_dimensions=frozenset({"ani", "conversationId", "dnis", "sessionId", "userId"}),
    read_payload=read_guide,
    served=SERVED_API,
    lookups=LOOKUPS,
    read_lookup=read_lookup,
    payload_examples=PAYLOAD_EXAMPLES,
    measures=MEASURES,
    example={
        "query_type": "queue-performance",
        "group_by": "[queueId]",
        "metrics": "[offered, answered]",
        "volume_metric": "offered",
    },
)
