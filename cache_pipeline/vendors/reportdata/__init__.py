"""The report-data API of the user's guide (G1 to G3)."""

from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide
from cache_pipeline.vendors.spec import AddressedAccount, VendorSpec

VENDOR = VendorSpec(
    name=ReportDataAdapter.name,
    account=AddressedAccount,
    adapter=ReportDataAdapter,
    create_adapter=lambda client, _: ReportDataAdapter(client),
    read_payload=read_guide,
    example={"query_type": "queue-performance", "metrics": "[offered, answered]", "volume_metric": "offered"},
)
