"""Observations of queues and users: what happens now, counted from the simulated calls.

The vendor documents the paths, permissions, metrics, predicates and fields. The simulator's interpretations and choices, of which the first
three are seen at third parties:
- conversations are in a group for each medium, users in one without a medium, and groups and metrics without anything are absent;
- `oLongestWaiting` and `oLongestInteracting` are the instant since when, in milliseconds, as `calculatedMetricValue`;
- the qualifier of a presence is the organisation's own, and `systemToOrganizationMappings` says to which of the system it belongs;
- a query has at most 100 predicates;
- a predicate on a medium selects the users of the queues too;
- every member of a queue is active in it;
- `detailMetrics` is refused.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import bad_request, invalid_value
from cache_pipeline.simulator.genesys_aggregates import ANALYTICS
from cache_pipeline.simulator.genesys_filters import Filter, all_of, build_condition, unimplemented
from cache_pipeline.simulator.observations import Observed, Ongoing, observe
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.request_gate import Gate, client_id_of
from cache_pipeline.simulator.state import Simulator

Json = dict[str, Any]
QUEUE_METRICS = frozenset(
    [
        "oActiveUsers",
        "oAlerting",
        "oInteracting",
        "oLongestInteracting",
        "oLongestWaiting",
        "oMemberUsers",
        "oOffQueueUsers",
        "oOnQueueUsers",
        "oUserPresences",
        "oUserRoutingStatuses",
        "oWaiting",
    ]
)
USER_METRICS = frozenset({"oActiveQueues", "oMemberQueues"})
QUEUE_DIMENSIONS, USER_DIMENSIONS = frozenset({"queueId", "mediaType"}), frozenset({"userId"})
_MAX_PREDICATES = 100
_OFF_QUEUE = "OFF_QUEUE"


class ObservationBody(BaseModel):
    """The JSON body, with the vendor's field names."""

    model_config = ConfigDict(extra="forbid")

    filter: Filter
    metrics: Annotated[list[str], Field(min_length=1)]
    detail_metrics: Annotated[list[str] | None, Field(alias="detailMetrics")] = None


def _check(body: ObservationBody, metrics: Set[str]) -> None:
    for name in body.metrics:
        if name not in metrics:
            raise invalid_value(name, "metrics", ", ".join(sorted(metrics)))
    if body.detail_metrics:
        raise unimplemented("detailMetrics")
    if len(body.filter.all_predicates()) > _MAX_PREDICATES:
        raise bad_request(f"filter: at most {_MAX_PREDICATES} predicates in a query")


@dataclass(frozen=True)
class Observations:
    """The endpoints of queues and users."""

    simulator: Simulator

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        table = (
            ("queues", self._queues, "analytics:queueObservation:view"),
            ("users", self._users, "analytics:userObservation:view"),
        )
        return [
            gate.route("POST", f"{ANALYTICS}/{name}/observations/query", "observation", handler, (permission,))
            for name, handler, permission in table
        ]

    async def _queues(self, request: Request) -> Response:
        simulator = self.simulator
        body = await read_json(request, ObservationBody, simulator.settings.max_body_bytes)
        _check(body, QUEUE_METRICS)
        count = simulator.settings.queues
        queue, medium = np.repeat(np.arange(count), len(MEDIA)), np.tile(np.arange(len(MEDIA)), count)
        condition = all_of(
            build_condition(body.filter, simulator.organisation, QUEUE_DIMENSIONS),
            simulator.division_limit(client_id_of(request)),
        )
        codes = {"queueId": queue, "mediaType": medium, "divisionId": queue % len(simulator.organisation.divisions)}
        holds = condition.holds(codes, len(queue)) if condition else np.ones(len(queue), dtype=np.bool_)
        selected = [(int(queue[row]), int(medium[row])) for row in np.flatnonzero(holds)]
        now = simulator.clock.now()
        observed = await simulator.run(lambda: observe(simulator, int(now * 1000)))
        results = list(queue_results(simulator, observed, selected, frozenset(body.metrics)))
        mappings = {state: [id_] for state, id_ in simulator.organisation.presences.items()}
        return JSONResponse({"systemToOrganizationMappings": mappings, **({"results": results} if results else {})})

    async def _users(self, request: Request) -> Response:
        simulator = self.simulator
        body = await read_json(request, ObservationBody, simulator.settings.max_body_bytes)
        _check(body, USER_METRICS)
        condition = build_condition(body.filter, simulator.organisation, USER_DIMENSIONS)
        users = simulator.organisation.values["userId"]
        holds = condition.holds({"userId": np.arange(len(users))}, len(users)) if condition else np.ones(len(users))
        now = simulator.clock.now()
        observed = await simulator.run(lambda: observe(simulator, int(now * 1000)))
        results: list[Json] = []
        for agent in np.flatnonzero(holds).tolist():
            queues = sum(agent in members for members in observed.members)
            data = [_counted(name, queues) for name in sorted(set(body.metrics)) if queues]
            results += [{"group": {"userId": users[agent]}, "data": data}] if data else []
        return JSONResponse({"results": results} if results else {})


def queue_results(
    simulator: Simulator, observed: Observed, selected: list[tuple[int, int]], metrics: Set[str]
) -> Iterator[Json]:
    """Yield the groups of some queues and media, and of the users of those queues; none that is empty."""
    ids = simulator.organisation.values["queueId"]
    for queue in dict.fromkeys(queue for queue, _ in selected):
        data = [each for each in _user_metrics(simulator, observed, queue) if each["metric"] in metrics]
        if data:
            yield {"group": {"queueId": ids[queue]}, "data": data}
    for queue, medium in selected:
        data = [each for each in _conversation_metrics(simulator, observed, queue, medium) if each["metric"] in metrics]
        if data:
            yield {"group": {"queueId": ids[queue], "mediaType": MEDIA[medium]}, "data": data}


def _conversation_metrics(simulator: Simulator, observed: Observed, queue: int, medium: int) -> Iterator[Json]:
    offset_ms = int(simulator.faults.current.clock_offset_seconds * 1000)
    for count, longest, ongoing in (
        ("oWaiting", "oLongestWaiting", observed.waiting),
        ("oInteracting", "oLongestInteracting", observed.interacting),
    ):
        yield from _ongoing_metrics(count, longest, ongoing, (queue, medium), offset_ms)


def _ongoing_metrics(
    count: str, longest: str, ongoing: Ongoing, place: tuple[int, int], offset_ms: int
) -> Iterator[Json]:
    if ongoing.counts[place]:
        yield _counted(count, int(ongoing.counts[place]))
        yield {"metric": longest, "stats": {"calculatedMetricValue": int(ongoing.since_ms[place]) + offset_ms}}


def _user_metrics(simulator: Simulator, observed: Observed, queue: int) -> Iterator[Json]:
    members = len(observed.members[queue])
    yield _counted("oActiveUsers", members)
    yield _counted("oMemberUsers", members)
    statuses = observed.count_statuses(queue)
    yield from _by_qualifier("oUserRoutingStatuses", statuses)
    yield from _by_qualifier(
        "oOnQueueUsers", {state: count for state, count in statuses.items() if state != _OFF_QUEUE}
    )
    ids = simulator.organisation.presences
    presences = {ids[state]: count for state, count in observed.count_presences(queue).items()}
    yield from _by_qualifier("oUserPresences", presences)
    off_queue = {id_: count for id_, count in presences.items() if id_ != ids["ON_QUEUE"]}
    yield from _by_qualifier("oOffQueueUsers", off_queue)


def _by_qualifier(metric: str, counts: Mapping[str, int]) -> Iterator[Json]:
    for qualifier, count in sorted(counts.items()):
        yield {"metric": metric, "qualifier": qualifier, "stats": {"count": count}}


def _counted(metric: str, count: int) -> Json:
    return {"metric": metric, "stats": {"count": count}}
