"""Names for ids: the listings of queues, users and others.

Documented: paths, permissions, `entities` and `nextUri` of a page, which is relative and absent on the last page, and the
deleted users of `state=any`. The vendor documents no conditional requests for listings. Of everything but users and flows a deleted
entry is listed no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from cache_pipeline.query.names import ListedName
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.http_listing import listing_pages
from cache_pipeline.vendors.json_body import read_mappings, read_optional_text, read_text
from cache_pipeline.vendors.spec import Lookup

#: Known to work for all listings; the vendor documents a default of 25 and no maximum.
_PAGE_SIZE = "100"

LOOKUPS = (
    Lookup("queues", ("queueId", "firstQueueId", "touchpointQueueId"), "/api/v2/routing/queues", "routing:queue:view"),
    Lookup(
        "users",
        (
            "userId",
            "lastUserId",
            "agentId",
            "assigneeId",
            "evaluatorId",
            "proposedAgentId",
            "reporterId",
            "scoredAgentId",
            "screenMonitoredUserId",
            "selectedAgentId",
            "touchpointAgentId",
        ),
        "/api/v2/users",
        parameters={"state": "any"},
    ),
    Lookup(
        "skills",
        ("requestedRoutingSkillId", "activeSkillId", "removedSkillId"),
        "/api/v2/routing/skills",
        "routing:skill:view",
    ),
    Lookup(
        "wrapupcodes",
        ("wrapUpCode", "touchpointWrapupCode"),
        "/api/v2/routing/wrapupcodes",
        "routing:wrapupCode:view",
    ),
    Lookup("divisions", ("divisionId",), "/api/v2/authorization/divisions"),
    Lookup("teams", ("teamId",), "/api/v2/teams", "groups:team:view"),
    Lookup("flows", ("flowId", "botFlowId"), "/api/v2/flows", "architect:flow:view", {"deleted": "true"}),
    Lookup("groups", ("groupId",), "/api/v2/groups"),
)


async def read_lookup(client: httpx.AsyncClient, lookup: Lookup) -> AsyncIterator[Mapping[str, ListedName]]:
    """Yield the names of one page of a listing after another, by id.

    Raises:
        PermissionMissing: The OAuth client's role lacks the listing's permission.
        UpstreamError: The vendor refused, or could not be reached.
        SchemaMismatch: A page does not have the documented shape, or the pages do not end.
    """
    parameters = {**lookup.parameters, "pageSize": _PAGE_SIZE}
    async for page in listing_pages(client, lookup.path, parameters, "nextUri", raise_for_permission):
        yield {
            read_text(entity, "id"): ListedName(name, is_deleted=_is_deleted(entity))
            for entity in read_mappings(page, "entities")
            if (name := read_optional_text(entity, "name"))
        }


def _is_deleted(entity: Mapping[str, object]) -> bool:
    return read_optional_text(entity, "state") == "deleted" or entity.get("deleted") is True
