"""The live reports of this vendor: their metrics and columns, and how they are read and followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.schema import Column, ColumnKind, to_snake_case
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.columns import key_column
from cache_pipeline.vendors.genesys.lookups import LOOKUPS
from cache_pipeline.vendors.genesys.observations import (
    MAX_PREDICATES,
    OBSERVATION_PATHS,
    SINCE,
    STATES,
    observation_body,
    read_observations,
)
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.json_body import read_mappings, read_object, read_text
from cache_pipeline.vendors.spec import LiveBoard, LiveKind, Push

#: The id of nothing, for an organisation that lists nothing.
_NO_ID = "00000000-0000-0000-0000-000000000000"

_QUEUE_METRICS: Mapping[str, str] = {
    "oWaiting": "conversations that wait for an agent",
    "oInteracting": "conversations with an agent",
    "oAlerting": "conversations that alert an agent",
    "oLongestWaiting": "since when the conversation that waits longest has waited",
    "oLongestInteracting": "since when the longest conversation with an agent has lasted",
    "oMemberUsers": "users who are members of the queue",
    "oActiveUsers": "members who are active in the queue",
    "oOnQueueUsers": "members who are on queue",
    "oOffQueueUsers": "members who are not on queue",
    "oUserPresences": "members by system presence",
    "oUserRoutingStatuses": "members by routing status",
}
_USER_METRICS: Mapping[str, str] = {
    "oActiveQueues": "queues in which the user is active",
    "oMemberQueues": "queues of which the user is a member",
}


def _columns(metrics: Mapping[str, str], report: LiveReport) -> tuple[Column, ...]:
    return (
        *(key_column(dimension) for dimension in report.group_by),
        *(column for metric in report.metrics for column in _metric_columns(metric, metrics[metric], report)),
    )


def _metric_columns(metric: str, description: str, report: LiveReport) -> Iterator[Column]:
    name = to_snake_case(metric)
    if metric in SINCE:
        yield Column(name, ColumnKind.instant, nullable=True, description=f"{metric}: {description}", source=metric)
        return
    # With a medium, conversations and users are in different rows.
    is_nullable = "mediaType" in report.group_by
    for state in STATES.get(metric, (None,)):
        suffix, words = (f"_{state.lower()}", f", {state}") if state else ("", "")
        yield Column(
            f"{name}{suffix}",
            ColumnKind.integer,
            nullable=is_nullable,
            description=f"{metric}{words}: {description}",
            source=metric,
        )


def _kind(
    query_type: str, lookup: str, dimensions: tuple[str, ...], metrics: Mapping[str, str], **options: Any
) -> LiveKind:
    path = OBSERVATION_PATHS[query_type]
    return LiveKind(
        lookup=lookup,
        ids_per_request=MAX_PREDICATES,
        dimensions=dimensions,
        metrics=metrics,
        columns=lambda report: _columns(metrics, report),
        read=lambda client, request: read_observations(path, dimensions[0], client, request),
        **options,
    )


def _open_push(client: httpx.AsyncClient) -> Push:
    # Imported here, because the library for sockets takes long to import.
    from cache_pipeline.vendors.genesys.notifications import QueuePush

    return QueuePush(client)


_BOARD = LiveBoard(
    waiting="o_waiting",
    waiting_since="o_longest_waiting",
    interacting="o_interacting",
    states={
        "free": "o_user_routing_statuses_idle",
        "interacting": "o_user_routing_statuses_interacting",
        "communicating": "o_user_routing_statuses_communicating",
        "not responding": "o_user_routing_statuses_not_responding",
        "off queue": "o_user_routing_statuses_off_queue",
    },
    idle="free",
)
LIVE_KINDS: Mapping[str, LiveKind] = {
    "queueObservations": _kind(
        "queueObservations", "queues", ("queueId", "mediaType"), _QUEUE_METRICS, board=_BOARD, open_push=_open_push
    ),
    "userObservations": _kind("userObservations", "users", ("userId",), _USER_METRICS),
}


async def probe_observations(client: httpx.AsyncClient, report: LiveReport, oauth_client: str) -> None:
    """Send the smallest possible requests, to check whether an OAuth client has the permissions for a live report.

    Raises:
        PermissionMissing: It lacks that of the listing of what is observed, or that of the observations.
        UpstreamError: The report cannot be read for another reason.
        SchemaMismatch: The listing does not have the documented shape.
    """
    kind = LIVE_KINDS[report.query_type]
    extensions = {"lane": Lane.interactive, "idempotent": True, "oauth_client": oauth_client}
    listing = next(each for each in LOOKUPS if each.name == kind.lookup)
    listed = await client.get(listing.path, params={**listing.parameters, "pageSize": "1"}, extensions=extensions)
    raise_for_permission(listed)
    ids = [read_text(entity, "id") for entity in read_mappings(read_object(listed), "entities")] or [_NO_ID]
    body = observation_body(report, kind.dimensions[0], ids[:1])
    raise_for_permission(await client.post(OBSERVATION_PATHS[report.query_type], json=body, extensions=extensions))
