"""Permissions that an OAuth client's role needs for a report, and the error for a missing one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.query.report import Report
from cache_pipeline.upstream.error_bodies import parse_error_body, raise_for_refusal
from cache_pipeline.upstream.http import httpx

_PERMISSION = re.compile(r"\b[a-zA-Z]+:[a-zA-Z]+:[a-zA-Z]+\b")

#: The permissions of each aggregates family, of which any one is sufficient.
AGGREGATE_PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "conversations": ("analytics:conversationAggregate:view",),
    "users": ("analytics:userAggregate:view",),
    "flows": ("analytics:flowAggregate:view",),
    "flowexecutions": ("analytics:flowExecutionAggregate:view",),
    "bots": ("analytics:botAggregate:view",),
    "journeys": ("analytics:journeyAggregate:view",),
    "knowledge": ("analytics:knowledgeAggregate:view",),
    "evaluations": ("analytics:evaluationAggregate:view",),
    "surveys": ("analytics:surveyAggregate:view",),
    "transcripts": ("analytics:speechAndTextAnalyticsAggregates:view",),
    "taskmanagement": ("analytics:taskManagementAggregate:view",),
    "casemanagement": ("analytics:caseManagementAggregate:view",),
    "resolutions": ("analytics:resolutionAggregate:view",),
    "summaries": ("analytics:summaryAggregate:view",),
    "agentcopilots": ("analytics:agentCopilotAggregate:view",),
    "copilots": ("analytics:copilotsAggregate:view",),
    "agentutilizations": ("analytics:agentUtilizationAggregate:view",),
    "actions": ("integrations:action:view", "bridge:actions:view"),
}
_CONVERSATION_DETAILS = ("analytics:conversationDetail:view", "analytics:agentConversationDetail:view")
_USER_DETAILS = ("analytics:userDetail:view",)
#: The same for row-level reports, by the kind of their rows.
DETAIL_PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "conversations": _CONVERSATION_DETAILS,
    "segments": _CONVERSATION_DETAILS,
    "presence": _USER_DETAILS,
    "routing": _USER_DETAILS,
}

#: The same for live reports, by query type. They need the listing of what is observed too.
OBSERVATION_PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "queueObservations": ("analytics:queueObservation:view",),
    "userObservations": ("analytics:userObservation:view",),
}


class PermissionMissing(UpstreamRefused):
    """A 403 because the OAuth client lacks a permission.

    Attributes:
        permissions: The permissions of which any one is sufficient, as the vendor names them; empty if it names none.
    """

    def __init__(self, *, refused: UpstreamRefused, permissions: tuple[str, ...]) -> None:
        self.permissions = permissions
        super().__init__(
            status=refused.status,
            method=refused.method,
            path=refused.path,
            code=refused.code,
            message=refused.vendor_message,
            correlation_id=refused.correlation_id,
        )
        if permissions:
            needed = " or ".join(permissions)
            self.args = (
                f"{self}; give the OAuth client a role with {needed}, in every division whose figures you need",
            )


def permissions_needed(report: Report) -> tuple[str, ...]:
    """Return the permissions of which any one is sufficient for a report; empty for an unknown family."""
    if report.rows is not None:
        return DETAIL_PERMISSIONS[report.rows]
    return AGGREGATE_PERMISSIONS.get(report.query_type, ())


def raise_for_permission(response: httpx.Response) -> None:
    """Raise for any status but 2xx; for a missing permission, raise an error that names it.

    Raises:
        PermissionMissing: A 403 with an error code for a missing permission.
        UpstreamRefused: Any other refusal.
    """
    try:
        raise_for_refusal(response)
    except UpstreamRefused as error:
        if error.status != 403 or not (error.code or "").startswith("missing."):
            raise
        # Parse the body again: the error keeps only one line of the message.
        _, message, _ = parse_error_body(response)
        named = tuple(dict.fromkeys(_PERMISSION.findall(message or "")))
        raise PermissionMissing(refused=error, permissions=named) from None
