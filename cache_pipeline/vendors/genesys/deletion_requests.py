"""Requests to delete a person's data, as an organisation has made them of its vendor.

Documented: the path, its permission `gdpr:request:view`, the types and states of a request, and the fields of its subject. Assumed:
a page has `nextUri` unless it is the last, as other listings have, and a request that is listed names its whole subject.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.http_listing import listing_pages
from cache_pipeline.vendors.json_body import read_mapping, read_mappings, read_optional_text, read_text, read_texts
from cache_pipeline.vendors.spec import DeletionRequest

_PATH, _PAGE_SIZE = "/api/v2/gdpr/requests", "100"
_DELETE, _FULFILLED = "GDPR_DELETE", "COMPLETED"
#: A name is left out, because it may be that of several people.
_IDS = ("userId", "externalContactId", "externalId")
_ADDRESSES = ("addresses", "phoneNumbers", "emailAddresses")


async def read_deletions(client: httpx.AsyncClient) -> AsyncIterator[DeletionRequest]:
    """Yield the requests that were fulfilled.

    Raises:
        PermissionMissing: The OAuth client's role lacks the permission.
        UpstreamError: The vendor refused, or could not be reached.
        SchemaMismatch: A page does not have the documented shape, or the pages do not end.
    """
    async for page in listing_pages(client, _PATH, {"pageSize": _PAGE_SIZE}, "nextUri", raise_for_permission):
        for entity in read_mappings(page, "entities"):
            if entity.get("requestType") == _DELETE and entity.get("status") == _FULFILLED:
                yield DeletionRequest(read_text(entity, "id"), _identifiers(read_mapping(entity, "subject")))


def _identifiers(subject: Mapping[str, object]) -> tuple[str, ...]:
    ids = [read_optional_text(subject, name) for name in _IDS]
    addresses = [text for name in _ADDRESSES if name in subject for text in read_texts(subject, name)]
    return tuple(dict.fromkeys(text for text in (*ids, *addresses) if text))
