"""Names for ids of queues.

The guide has no listing. Assumed: that of the vendor whose API it describes, at the same address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from cache_pipeline.query.names import ListedName
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.http_listing import listing_pages
from cache_pipeline.vendors.json_body import read_mappings, read_optional_text, read_text
from cache_pipeline.vendors.spec import Lookup

LOOKUPS = (Lookup("queues", ("queueId",), "/api/v2/routing/queues", "routing:queue:view"),)


async def read_lookup(client: httpx.AsyncClient, lookup: Lookup) -> AsyncIterator[Mapping[str, ListedName]]:
    """Yield the names of one page after another, by id.

    Raises:
        UpstreamError: The vendor refused, or could not be reached.
        SchemaMismatch: A page does not have the documented shape, or the pages do not end.
    """
    async for page in listing_pages(client, lookup.path, {"pageSize": "100"}, "nextUri", raise_for_refusal):
        yield {
            read_text(entity, "id"): ListedName(name)
            for entity in read_mappings(page, "entities")
            if (name := read_optional_text(entity, "name"))
        }
