"""What an OAuth client's role must allow before a report can be asked for, and what the vendor says where it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.query.report import Report
from cache_pipeline.upstream.error_bodies import parse_error_body, raise_for_refusal
from cache_pipeline.upstream.http import httpx

_PERMISSION = re.compile(r"\b[a-zA-Z]+:[a-zA-Z]+:[a-zA-Z]+\b")

#: The permissions of which any one will do, by aggregates family; and by what a row-level report's rows are.
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
DETAIL_PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "conversations": _CONVERSATION_DETAILS,
    "segments": _CONVERSATION_DETAILS,
    "presence": _USER_DETAILS,
    "routing": _USER_DETAILS,
}


class PermissionMissing(UpstreamRefused):
    """A 403 for want of a permission.

    Attributes:
        permissions: those of which any one would do, as the vendor names them; empty where it names none.
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
            wanted = " or ".join(permissions)
            self.args = (
                f"{self}; give the OAuth client a role with {wanted}, in every division whose figures you want",
            )


def permissions_needed(report: Report) -> tuple[str, ...]:
    """The permissions of which any one opens what a report asks; empty for a family that is not known."""
    if report.rows is not None:
        return DETAIL_PERMISSIONS[report.rows]
    return AGGREGATE_PERMISSIONS.get(report.query_type, ())


def raise_for_permission(response: httpx.Response) -> None:
    """Let a 2xx pass and turn anything else into an error, a missing permission into one that names it.

    Raises:
        PermissionMissing: 403 with a code that says so.
        UpstreamRefused: any other refusal.
    """
    try:
        raise_for_refusal(response)
    except UpstreamRefused as error:
        if error.status != 403 or not (error.code or "").startswith("missing."):
            raise
        # Read whole: the error keeps a line of it.
        _, message, _ = parse_error_body(response)
        named = tuple(dict.fromkeys(_PERMISSION.findall(message or "")))
        raise PermissionMissing(refused=error, permissions=named) from None
