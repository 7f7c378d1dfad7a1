"""A report's filter in the form of Genesys queries, which have two levels of conditions."""

from __future__ import annotations

from collections.abc import Iterable

from cache_pipeline.query.filters import Filter, Predicate

#: Dimensions of whole conversations, from the vendor's SDK; they belong in ``conversationFilters``.
CONVERSATION_DIMENSIONS = frozenset(
    {
        *("accessAttribute", "conversationEnd", "conversationId", "conversationInitiator", "conversationStart"),
        *("customerParticipation", "divisionId", "externalTag", "mediaStatsMinConversationMos", "originatingDirection"),
        "originatingSocialMediaPublic",
    }
)
#: Dimensions of segments, their sessions and participants, from the vendor's SDK; they belong in ``segmentFilters``.
SEGMENT_DIMENSIONS = frozenset(
    {
        *("addressFrom", "addressTo", "agentAssistantId", "agentOwned", "ani", "authenticated", "bargedParticipantId"),
        *("callbackNumber", "callbackScheduledTime", "canonicalExternalContactId", "cleared", "coachedParticipantId"),
        *("conference", "deliveryPushed", "deliveryStatus", "destinationAddress", "destinationConversationId"),
        *("detectedSpeechEnd", "detectedSpeechStart", "direction", "disconnectType", "dnis", "edgeId"),
        *("engagementSource", "errorCode", "exitReason", "extendedDeliveryStatus", "externalContactId"),
        *("externalOrganizationId", "flaggedReason", "flowId", "flowName", "flowOutType", "flowOutcome"),
        *("flowOutcomeId", "flowOutcomeValue", "flowVersion", "groupId", "journeyActionId", "journeyActionMapId"),
        *("journeyCustomerId", "journeyCustomerIdType", "journeyCustomerSessionId", "mediaCount", "mediaType"),
        *("messageType", "monitoredParticipantId", "outboundCampaignId", "outboundContactId", "outboundContactListId"),
        *("participantName", "protocolCallId", "provider", "purpose", "queueId", "recording", "remote"),
        *(
            "remoteNameDisplayable",
            "requestedLanguageId",
            "requestedRouting",
            "requestedRoutingSkillId",
            "scoredAgentId",
        ),
        *("screenMonitoredUserId", "screenRecording", "scriptId", "segmentEnd", "segmentType", "sessionDnis"),
        *("sipResponseCode", "skillExpressionId", "snippetRecording", "subject", "teamId", "transferTargetAddress"),
        *("transferTargetName", "transferType", "usedRouting", "userId", "wrapUpCode", "wrapUpNote"),
    }
)
#: Of those, the ones that a segment, its session or its participant has under the same name with a single text.
READABLE_DIMENSIONS = frozenset(
    {
        *("direction", "disconnectType", "errorCode", "mediaType", "messageType", "provider", "purpose", "queueId"),
        *("segmentType", "teamId", "userId", "wrapUpCode"),
    }
)


def check_detail_filters(filters: Filter, *, is_held_to_filter: bool) -> Iterable[tuple[str, str]]:
    """Yield conditions on rows that the vendor cannot select, as (field, problem).

    Args:
        filters: The declared filter.
        is_held_to_filter: Whether each row must match the filter itself, so that its values must be in the answer.
    """
    known = CONVERSATION_DIMENSIONS | (READABLE_DIMENSIONS if is_held_to_filter else SEGMENT_DIMENSIONS)
    if unknown := sorted(filters.dimensions - known):
        yield "filters", f"rows cannot be filtered by {', '.join(unknown)}; expected one of {', '.join(sorted(known))}"
    elif len(filters.conjunctions) > 1 and _has_two_levels(filters):
        of_conversations = sorted(filters.dimensions & CONVERSATION_DIMENSIONS)
        yield (
            "filters",
            f"conditions on conversations ({', '.join(of_conversations)}) and on segments can only be joined by and: "
            "declare a report for each alternative",
        )


def _has_two_levels(filters: Filter) -> bool:
    of_conversations = filters.dimensions & CONVERSATION_DIMENSIONS
    return bool(of_conversations) and of_conversations != filters.dimensions


def split_by_level(filters: Filter) -> tuple[Filter, Filter]:
    """Return the conditions on conversations and those on segments, of which both must hold."""
    if not _has_two_levels(filters):
        return (filters, Filter()) if filters.dimensions & CONVERSATION_DIMENSIONS else (Filter(), filters)
    (conjunction,) = filters.conjunctions
    of_conversations = {name: values for name, values in conjunction.items() if name in CONVERSATION_DIMENSIONS}
    of_segments = {name: values for name, values in conjunction.items() if name not in CONVERSATION_DIMENSIONS}
    return Filter.from_conjunctions((of_conversations,)), Filter.from_conjunctions((of_segments,))


def all_predicates(filters: Filter) -> list[Predicate]:
    """Return the predicates of all levels."""
    declaration = filters.declaration
    return [*declaration.predicates, *(predicate for clause in declaration.clauses for predicate in clause.predicates)]


def check_filters(filters: Filter) -> Iterable[tuple[str, str]]:
    """Yield conditions that the vendor's filters cannot express, as (field, problem)."""
    predicates = all_predicates(filters)
    if any(predicate.operator == "notIn" and predicate.values != (None,) for predicate in predicates):
        yield "filters", "Genesys has no operator notIn; list the values to include with operator in"
    elif filters.declaration.clauses and any(len(predicate.values) > 1 for predicate in predicates):
        yield (
            "filters",
            "this filter needs three levels of conditions and Genesys has two; in clauses joined by or, give each predicate "
            "one value",
        )


def _matches(predicate: Predicate) -> list[dict[str, object]]:
    """Return one vendor predicate for each value, of which any must hold."""
    if predicate.operator == "notIn":
        return [{"dimension": predicate.dimension, "operator": "exists"}]
    return [
        {"dimension": predicate.dimension, "operator": "notExists"}
        if value is None
        else {"dimension": predicate.dimension, "operator": "matches", "value": value}
        for value in predicate.values
    ]


def vendor_filter(filters: Filter) -> dict[str, object]:
    """Return the vendor's filter: one or-clause for each predicate, or one and-clause for each clause."""
    declaration = filters.declaration
    if declaration.clauses:
        clauses = [
            ("and", [match for predicate in clause.predicates for match in _matches(predicate)])
            for clause in declaration.clauses
        ]
    else:
        clauses = [("or", _matches(predicate)) for predicate in declaration.predicates]
    return {
        "type": declaration.type,
        "clauses": [{"type": kind, "predicates": predicates} for kind, predicates in clauses],
    }
