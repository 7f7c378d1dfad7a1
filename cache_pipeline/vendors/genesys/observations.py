"""Observations of queues and users: what happens now, in one synchronous query for many of them.

Documented: paths, permissions, metrics, the predicates on queueId, mediaType and userId, the `group` and `data` of each result, `stats`
with `count` and `calculatedMetricValue`, and `systemToOrganizationMappings`, which says to which system presence a presence of the
organisation belongs. Seen at third parties: conversations are in a group for each medium, users in one without a medium, and what is
empty is omitted; the longest wait is the instant at which it began, in milliseconds. The vendor does not document how many predicates
a query may have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.schema import to_snake_case
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.genesys.metrics import METRIC_STATES
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.json_body import (
    read_mapping,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
    read_texts,
    to_whole_number,
)
from cache_pipeline.vendors.spec import LiveReading, LiveRequest, LiveRow

#: The maximum that the vendor documents for other queries about users, in queries about them and about queues.
MAX_PREDICATES = 100
QUEUES_PATH = "/api/v2/analytics/queues/observations/query"
OBSERVATION_PATHS: Mapping[str, str] = {
    "queueObservations": QUEUES_PATH,
    "userObservations": "/api/v2/analytics/users/observations/query",
}
#: Instants in milliseconds are larger than this since the year 2001; shorter values are durations.
_FIRST_INSTANT_MS = 1_000_000_000_000

SINCE = frozenset({"oLongestWaiting", "oLongestInteracting"})
#: The qualifiers of a metric, each of which is a column.
STATES: Mapping[str, tuple[str, ...]] = {
    "oUserPresences": METRIC_STATES["tSystemPresence"],
    "oUserRoutingStatuses": METRIC_STATES["tAgentRoutingStatus"],
}
#: Metrics of conversations, which have a group for each medium. The others are of users, in a group without one.
_OF_CONVERSATIONS = frozenset({"oWaiting", "oInteracting", "oAlerting", *SINCE})

#: The dimensions of a group, as in the report's `group_by`.
Group = tuple[str | None, ...]
#: Metric and qualifier.
ObservedKey = tuple[str, str | None]


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
            for state in STATES.get(metric, (None,)):
                column = f"{name}_{state.lower()}" if state else name
                row[column] = values.get((metric, state), 0 if is_of_row else None)
        return row


def _state(metric: str, qualifier: str | None, presences: Mapping[str, str]) -> str | None:
    """Return the state that a qualifier says; None for metrics whose qualifiers are added up."""
    if metric not in STATES:
        return None
    state = presences.get(qualifier or "", qualifier or "").upper().replace(" ", "_")
    if state not in STATES[metric]:
        raise SchemaMismatch(
            f"{metric} has unknown qualifier {qualifier!r}; expected one of {', '.join(STATES[metric])}, or a presence that "
            "the answer maps to one"
        )
    return state


def _since(stats: Mapping[str, object], observed_at: datetime) -> datetime | None:
    if stats.get("calculatedMetricValue") is None:
        return None
    value = _whole_number(stats, "longest", "calculatedMetricValue")
    if value >= _FIRST_INSTANT_MS:
        try:
            return datetime.fromtimestamp(value / 1000, UTC)
        except (OverflowError, OSError, ValueError):
            raise SchemaMismatch(f"longest: calculatedMetricValue is {value!r} where an instant was expected") from None
    return observed_at - timedelta(milliseconds=value)


def _whole_number(stats: Mapping[str, object], metric: str, name: str) -> int:
    value = to_whole_number(stats.get(name), f"{metric}: {name}")
    if value < 0:
        raise SchemaMismatch(f"{metric}: {name} is {value} where a whole number was expected")
    return value


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


async def read_observations(path: str, first: str, client: httpx.AsyncClient, request: LiveRequest) -> LiveReading:
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
