"""Which dimensions of Genesys Cloud identify a person or a row, and which may be published."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.vendors.spec import RowRules

PERSONAL_DIMENSIONS = frozenset(
    {
        "addressFrom",
        "addressTo",
        "ani",
        "conversationId",
        "dnis",
        "externalContactId",
        "participantName",
        "remote",
        "selectedAgentId",
        "sessionId",
        "userId",
    }
)
ROW_RULES: Mapping[str, RowRules] = {
    "conversations": RowRules(
        key=("conversationId",),
        edge_dimensions=("divisionId", "firstQueueId", "mediaType", "originatingDirection"),
    ),
    "segments": RowRules(
        key=("conversationId", "segmentNumber", "sessionId"),
        edge_dimensions=(
            "direction",
            "disconnectType",
            "mediaType",
            "purpose",
            "queueId",
            "segmentType",
            "wrapUpCode",
        ),
    ),
    "presence": RowRules(
        key=("startTime", "userId"),
        edge_dimensions=("organizationPresenceId", "systemPresence"),
    ),
    "routing": RowRules(key=("startTime", "userId"), edge_dimensions=("routingStatus",)),
}
