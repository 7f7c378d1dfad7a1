"""Observations of queues and users: what happens now, in one synchronous query for many of them.

Documented: paths, permissions, metrics, the predicates on queueId, mediaType and userId, the `group` and `data` of each result, `stats`
with `count` and `calculatedMetricValue`, and `systemToOrganizationMappings`, which says to which system presence a presence of the
organisation belongs. Seen at third parties: conversations are in a group for each medium, users in one without a medium, and what is
empty is omitted; the longest wait is the instant at which it began, in milliseconds. The vendor does not document how many predicates
a query may have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.schema import Column, ColumnKind, to_snake_case
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.columns import key_column
from cache_pipeline.vendors.genesys.lookups import LOOKUPS
from cache_pipeline.vendors.genesys.metrics import METRIC_STATES
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.json_body import (
    read_mapping,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
    read_texts,
)
from cache_pipeline.vendors.spec import LiveBoard, LiveKind, LiveReading, LiveRequest, LiveRow, Push

#: The maximum that the vendor documents for other queries about users, in queries about them and about queues.
MAX_PREDICATES = 100
QUEUES_PATH = "/api/v2/analytics/queues/observations/query"
OBSERVATION_PATHS: Mapping[str, str] = {
    "queueObservations": QUEUES_PATH,
    "userObservations": "/api/v2/analytics/users/observations/query",
}
#: The id of nothing, for an organisation that lists nothing.
_NO_ID = "00000000-0000-0000-0000-000000000000"
#: Instants in milliseconds are larger than this since the year 2001; shorter values are durations.
_FIRST_INSTANT_MS = 1_000_000_000_000

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
SINCE = frozenset({"oLongestWaiting", "oLongestInteracting"})
_STATES: Mapping[str, tuple[str, ...]] = {
    "oUserPresences": METRIC_STATES["tSystemPresence"],
    "oUserRoutingStatuses": METRIC_STATES["tAgentRoutingStatus"],
}
#: Metrics of conversations, which have a group for each medium. The others are of users, in a group without one.
_OF_CONVERSATIONS = frozenset({"oWaiting", "oInteracting", "oAlerting", *SINCE})

#: The dimensions of a group, as in the report's `group_by`.
Group = tuple[str | None, ...]
#: Metric and qualifier.
ObservedKey = tuple[str, str | None]


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
    for state in _STATES.get(metric, (None,)):
        suffix, words = (f"_{state.lower()}", f", {state}") if state else ("", "")
        yield Column(
            f"{name}{suffix}",
            ColumnKind.integer,
            nullable=is_nullable,
            description=f"{metric}{words}: {description}",
            source=metric,
        )


@dataclass
class ObservedGroups:
    """The figures of one answer, or of several that are joined, by group of the report.

    Attributes:
        report: The live report.
        first: The dimension of what is observed.
        values: The figures of each group: a count, or the instant since when something lasts.
    """

    report: LiveReport
    first: str
    values: dict[Group, dict[ObservedKey, int | datetime]] = field(
        default_factory=lambda: defaultdict[Group, dict[ObservedKey, int | datetime]](dict)
    )

    def add(
        self,
        group: Mapping[str, object],
        metrics: Iterable[Mapping[str, object]],
        observed_at: datetime,
        presences: Mapping[str, str],
    ) -> None:
        """Add the metrics of one group of an answer.

        Args:
            group: The vendor's group.
            metrics: Its metrics.
            observed_at: When the vendor was asked.
            presences: The system presence of each presence of the organisation, by id.

        Raises:
            SchemaMismatch: A metric was not requested, has an unknown qualifier, or has no figure.
        """
        read_text(group, self.first)
        values = self.values[tuple(read_optional_text(group, dimension) for dimension in self.report.group_by)]
        for metric in metrics:
            name = read_text(metric, "metric")
            if name not in self.report.metrics:
                raise SchemaMismatch(f"metric {name!r} was not requested")
            key = name, _state(name, read_optional_text(metric, "qualifier"), presences)
            stats = read_mapping(metric, "stats")
            if name in SINCE:
                if (since := _since(stats, observed_at)) is not None:
                    known = cast("datetime | None", values.get(key))
                    values[key] = since if known is None else min(known, since)
            else:
                values[key] = cast("int", values.get(key, 0)) + _whole_number(stats, name, "count")

    def rows(self, ids: Sequence[str], observed_at: datetime) -> list[LiveRow]:
        """Return a row for each group, and one for each id of which the vendor says nothing: nothing happens there."""
        position = self.report.group_by.index(self.first)
        if len(self.report.group_by) == 1:
            found: list[Group] = [(id_,) for id_ in ids]
        else:
            nothing = [tuple(id_ if at == position else None for at in range(len(self.report.group_by))) for id_ in ids]
            found = list(dict.fromkeys([*nothing, *self.values]))
        return [LiveRow(self._row(group), observed_at) for group in found]

    def _row(self, group: Group) -> dict[str, object]:
        values = self.values.get(group, {})
        row: dict[str, object] = {
            to_snake_case(dimension): value for dimension, value in zip(self.report.group_by, group, strict=True)
        }
        medium = dict(zip(self.report.group_by, group, strict=True)).get("mediaType")
        for metric in self.report.metrics:
            name = to_snake_case(metric)
            if metric in SINCE:
                row[name] = values.get((metric, None))
                continue
            # In a report by medium, a row is either of conversations or of users.
            is_of_row = "mediaType" not in self.report.group_by or (metric in _OF_CONVERSATIONS) == (medium is not None)
            for state in _STATES.get(metric, (None,)):
                column = f"{name}_{state.lower()}" if state else name
                row[column] = values.get((metric, state), 0 if is_of_row else None)
        return row


def _state(metric: str, qualifier: str | None, presences: Mapping[str, str]) -> str | None:
    """Return the state that a qualifier says; None for metrics whose qualifiers are added up."""
    if metric not in _STATES:
        return None
    state = presences.get(qualifier or "", qualifier or "").upper().replace(" ", "_")
    if state not in _STATES[metric]:
        raise SchemaMismatch(
            f"{metric} has unknown qualifier {qualifier!r}; expected one of {', '.join(_STATES[metric])}, or a presence that "
            "the answer maps to one"
        )
    return state


def _since(stats: Mapping[str, object], observed_at: datetime) -> datetime | None:
    if stats.get("calculatedMetricValue") is None:
        return None
    value = _whole_number(stats, "longest", "calculatedMetricValue")
    if value >= _FIRST_INSTANT_MS:
        return datetime.fromtimestamp(value / 1000, UTC)
    return observed_at - timedelta(milliseconds=value)


def _whole_number(stats: Mapping[str, object], metric: str, name: str) -> int:
    value = stats.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise SchemaMismatch(f"{metric}: {name} is {value!r} where a whole number was expected")
    return int(value)


def read_presences(answer: Mapping[str, object]) -> dict[str, str]:
    """Return the system presence of each presence of the organisation, by its id.

    Raises:
        SchemaMismatch: The mapping does not have the documented shape.
    """
    mappings = read_mapping(answer, "systemToOrganizationMappings")
    return {id_: presence.upper() for presence in mappings for id_ in read_texts(mappings, presence)}


def observation_body(report: LiveReport, first: str, ids: Sequence[str]) -> dict[str, object]:
    """Return the body of a query for some ids."""
    predicates = [{"type": "dimension", "dimension": first, "operator": "matches", "value": id_} for id_ in ids]
    return {"filter": {"type": "or", "predicates": predicates}, "metrics": list(report.metrics)}


async def ask_for_observations(
    client: httpx.AsyncClient, path: str, first: str, request: LiveRequest
) -> Mapping[str, object]:
    """Send one query, for at most as many ids as one may have.

    Raises:
        UpstreamError: The vendor refused, or could not be reached.
        SchemaMismatch: The answer is not an object, or about ids that were not asked for.
    """
    response = await client.post(
        path,
        json=observation_body(request.report, first, request.ids),
        extensions={"lane": Lane.interactive, "idempotent": True},
    )
    raise_for_permission(response)
    answer = read_object(response)
    answered = {read_text(read_mapping(result, "group"), first) for result in read_mappings(answer, "results")}
    if unknown := sorted(answered - set(request.ids)):
        raise SchemaMismatch(f"{first} {', '.join(unknown[:3])} was not requested")
    return answer


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


async def _read(path: str, first: str, client: httpx.AsyncClient, request: LiveRequest) -> LiveReading:
    """Ask for all ids, in as many queries as they need, one after another; all of them succeed or none."""
    rows: list[LiveRow] = []
    results: list[Mapping[str, object]] = []
    others: dict[str, object] = {}
    for start in range(0, len(request.ids), MAX_PREDICATES):
        part = LiveRequest(request.report, request.ids[start : start + MAX_PREDICATES], request.clock)
        # The figures may be as old as the moment before the request.
        observed_at = request.clock()
        answer = await ask_for_observations(client, path, first, part)
        groups, presences = ObservedGroups(request.report, first), read_presences(answer)
        results += read_mappings(answer, "results")
        others |= {name: value for name, value in answer.items() if name != "results"}
        for result in read_mappings(answer, "results"):
            groups.add(read_mapping(result, "group"), read_mappings(result, "data"), observed_at, presences)
        rows += groups.rows(part.ids, observed_at)
    return LiveReading(rows, {**others, "results": results})


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
        read=lambda client, request: _read(path, dimensions[0], client, request),
        **options,
    )


def _open_push(client: httpx.AsyncClient) -> Push:
    # Imported here, because it imports this module, and the socket's library takes long to import.
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
