"""Presence and routing status of agents: as records with start and end (details) and as sums by bucket (aggregates).

The vendor documents: the fields of body and rows, the names of presences and statuses, `qualifier`, the 7 and 31 days of queries,
100 predicates on users. The simulator's interpretations and choices:
- a record is included, unclipped, if it overlaps the interval, however long before it began;
- a record whose end is not visible yet has no `endTime`;
- an aggregate's sum is the time inside the bucket;
- `order` is the order of users by id.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import genesys_vocabulary as words
from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.calls import Codes, Flags
from cache_pipeline.simulator.errors import bad_request
from cache_pipeline.simulator.filters import Condition
from cache_pipeline.simulator.genesys_aggregates import ANALYTICS, job_page_size, reject_page_size
from cache_pipeline.simulator.genesys_conversations import Paging, parse_details_interval
from cache_pipeline.simulator.genesys_filters import Filter, all_of, build_condition, unimplemented
from cache_pipeline.simulator.genesys_jobs import JobRoutes, JobService, PreparedQuery
from cache_pipeline.simulator.genesys_query import USERS, AggregationBody, bucket_edges, check_names
from cache_pipeline.simulator.pages import json_length, most_that_fit
from cache_pipeline.simulator.presence import AgentDay, SpansOf, StateSpan
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator

DETAILS = f"{ANALYTICS}/users/details"
AGGREGATES = f"{ANALYTICS}/users/aggregates"
_DETAILS_PERMISSION = "analytics:userDetail:view"
_MAX_USER_PREDICATES = 100
_QUERY_DAYS, _FILTERED_QUERY_DAYS = 7, 31


class _Details(BaseModel):
    model_config = ConfigDict(extra="forbid")

    interval: str
    user_filters: Annotated[list[Filter], Field(alias="userFilters")] = []
    presence_filters: Annotated[list[Any], Field(alias="presenceFilters")] = []
    routing_status_filters: Annotated[list[Any], Field(alias="routingStatusFilters")] = []
    order: Literal["asc", "desc", "unordered"] = "asc"


class UsersJobBody(_Details):
    """The JSON body of a job."""

    limit: Annotated[int | None, Field(ge=1)] = None


class UsersQueryBody(_Details):
    """The JSON body of a query."""

    presence_aggregations: Annotated[list[Any], Field(alias="presenceAggregations")] = []
    routing_status_aggregations: Annotated[list[Any], Field(alias="routingStatusAggregations")] = []
    paging: Paging = Paging()


def _select_agents(simulator: Simulator, condition: Condition | None) -> list[int]:
    """Return the codes of the agents who satisfy the condition."""
    codes: Codes = np.arange(simulator.organisation.size("userId"), dtype=np.int64)
    holds: Flags = condition.holds({"userId": codes}, len(codes)) if condition else np.ones(len(codes), dtype=np.bool_)
    return np.flatnonzero(holds).tolist()


@dataclass(frozen=True)
class Users:
    """The agents of a query, with their records; serialized page by page."""

    simulator: Simulator
    agents: tuple[int, ...]
    interval: intervals.Interval
    visible_until_ms: int

    def __len__(self) -> int:
        """Return the number of agents."""
        return len(self.agents)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `userDetails`, absent if the page is empty."""
        ids = self.simulator.organisation.values["userId"]
        users = [{"userId": ids[agent], **self._records(agent)} for agent in self.agents[offset : offset + size]]
        return {"userDetails": users} if users else {}

    def _records(self, agent: int) -> dict[str, Any]:
        presences = self.simulator.organisation.presences
        return {
            "primaryPresence": [
                {**self._times(span), "systemPresence": span.state, "organizationPresenceId": presences[span.state]}
                for span in self._stretches(agent, lambda day: day.presence)
            ],
            "routingStatus": [
                {**self._times(span), "routingStatus": span.state}
                for span in self._stretches(agent, lambda day: day.routing)
            ],
        }

    def _stretches(self, agent: int, spans_of: SpansOf) -> list[StateSpan]:
        end = min(self.interval.end_ms, self.visible_until_ms)
        return (
            self.simulator.presence.stretches(self.interval.start_ms, end, agent, spans_of)
            if end > self.interval.start_ms
            else []
        )

    def _times(self, span: StateSpan) -> dict[str, str]:
        times = {"startTime": intervals.iso(span.start_ms)}
        if span.end_ms <= self.visible_until_ms:
            times["endTime"] = intervals.iso(span.end_ms)
        return times


def _timeline(day: AgentDay, metric: str, presences: dict[str, str]) -> Iterator[tuple[int, int, str]]:
    """Yield the records that a metric adds up, each with its qualifier."""
    for span in day.routing if metric == "tAgentRoutingStatus" else day.presence:
        qualifier = presences[span.state] if metric == "tOrganizationPresence" else span.state
        yield span.start_ms, span.end_ms, qualifier


@dataclass(frozen=True)
class UserSums:
    """Time by agent (or for all agents), bucket, metric and qualifier; serialized in pages of groups."""

    simulator: Simulator
    edges: intervals.Milliseconds
    agents: tuple[int, ...]
    is_by_user: bool
    metrics: tuple[str, ...]
    visible_until_ms: int
    max_rows: int | None = None

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.agents) if self.is_by_user else min(1, len(self.agents))

    @property
    def interval(self) -> intervals.Interval:
        """The interval."""
        return intervals.whole_interval(self.edges)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `results` and the mapping from system presences to the organisation's presences."""
        ids = self.simulator.organisation.values["userId"]
        groups = [(agent,) for agent in self.agents] if self.is_by_user else [self.agents] * len(self)
        kept = self._kept(groups)
        results = [
            {"group": {"userId": ids[agents[0]]} if self.is_by_user else {}, "data": data}
            for agents, count in list(zip(groups, kept, strict=True))[offset : offset + size]
            if (data := self._data(agents)[:count])
        ]
        mappings = {presence: [id_] for presence, id_ in self.simulator.organisation.presences.items()}
        return {"results": results, "systemToOrganizationMappings": mappings}

    def _kept(self, groups: list[tuple[int, ...]]) -> list[int | None]:
        """Return how many of the first buckets of each group the truncated result has; None for all."""
        if self.max_rows is None:
            return [None] * len(groups)
        # Text of equal format, so that its order is that of time.
        buckets = [
            (bucket["interval"], number) for number, agents in enumerate(groups) for bucket in self._data(agents)
        ]
        if self.simulator.faults.current.order == "time":
            buckets.sort()
        counts = Counter(number for _, number in buckets[: self.max_rows])
        return [counts[number] for number in range(len(groups))]

    def _data(self, agents: tuple[int, ...]) -> list[dict[str, Any]]:
        sums = self._sums(agents)
        data: list[dict[str, Any]] = []
        for bucket, (start, end) in enumerate(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True)):
            metrics = [
                {"metric": metric, "qualifier": qualifier, "stats": {"sum": float(total)}}
                for (metric, qualifier), totals in sums.items()
                if (total := int(totals[bucket]))
            ]
            if metrics:
                data.append({"interval": f"{intervals.iso(start)}/{intervals.iso(end)}", "metrics": metrics})
        return data

    def _sums(self, agents: tuple[int, ...]) -> dict[tuple[str, str], intervals.Milliseconds]:
        first, last = int(self.edges[0]), min(int(self.edges[-1]), self.visible_until_ms)
        sums: dict[tuple[str, str], intervals.Milliseconds] = {}
        presences = dict(self.simulator.organisation.presences)
        for day in self.simulator.presence.days(first, int(self.edges[-1])):
            for metric in self.metrics:
                for agent in agents:
                    for start, end, qualifier in _timeline(day[agent], metric, presences):
                        if start < last and end > first:
                            totals = sums.setdefault((metric, qualifier), np.zeros(len(self.edges) - 1, dtype=np.int64))
                            self._add(totals, max(start, first), min(end, last))
        return dict(sorted(sums.items()))

    def _add(self, totals: intervals.Milliseconds, start: int, end: int) -> None:
        low = int(np.searchsorted(self.edges, start, side="right")) - 1
        high = int(np.searchsorted(self.edges, end, side="left"))
        inner = np.concatenate([[start], self.edges[low + 1 : high], [end]])
        totals[low:high] += np.diff(inner)


@dataclass(frozen=True)
class UserDetails:
    """The endpoints of user details."""

    job_service: JobService

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes. The watermark comes before a job, because its path would match a job id."""
        permissions = (_DETAILS_PERMISSION,)
        return [
            gate.route("GET", f"{DETAILS}/jobs/availability", "availability", self._availability, permissions),
            *JobRoutes(self.job_service, f"{DETAILS}/jobs", permissions, self._prepare, from_data_lake=True).routes(
                gate
            ),
            gate.route("POST", f"{DETAILS}/query", "sync_query", self._query, permissions),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.job_service.simulator

    def _users(self, body: _Details, max_days: int, limit: int | None, visible_until_ms: int) -> Users:
        for name, value in (
            ("presenceFilters", body.presence_filters),
            ("routingStatusFilters", body.routing_status_filters),
        ):
            if value:
                raise unimplemented(name)
        simulator = self._simulator
        filters = (
            build_condition(filter_, simulator.organisation, words.USER_DIMENSIONS) for filter_ in body.user_filters
        )
        ids = simulator.organisation.values["userId"]
        agents = sorted(_select_agents(simulator, all_of(*filters)), key=ids.__getitem__, reverse=body.order == "desc")
        interval = parse_details_interval(body.interval, max_days)
        users = Users(simulator, tuple(agents[:limit][: simulator.max_rows()]), interval, visible_until_ms)
        max_bytes = simulator.faults.current.max_bytes
        if max_bytes is None:
            return users
        count = most_that_fit(len(users), max_bytes, lambda size: json_length(users.page(0, size)))
        return replace(users, agents=users.agents[:count])

    async def _prepare(self, request: Request) -> PreparedQuery:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, UsersJobBody, settings.max_body_bytes)
        visible_until_ms = simulator.visible_until_ms(simulator.clock.now(), from_data_lake=True)
        users = self._users(body, settings.details_job_max_days, body.limit, visible_until_ms)
        cells = users.interval.length_ms // 3_600_000 * len(users)
        return PreparedQuery(lambda: users, cells, body.model_dump_json().encode(), users.interval)

    async def _query(self, request: Request) -> Response:
        simulator = self._simulator
        body = await read_json(request, UsersQueryBody, simulator.settings.max_body_bytes)
        if body.presence_aggregations or body.routing_status_aggregations:
            raise unimplemented("aggregations")
        offset = body.paging.offset()
        visible_until_ms = simulator.visible_until_ms(simulator.clock.now(), from_data_lake=False)
        users = self._users(body, _FILTERED_QUERY_DAYS if body.user_filters else _QUERY_DAYS, None, visible_until_ms)
        simulator.check_size(users.interval)

        def work() -> Response:
            return JSONResponse({**users.page(offset, body.paging.page_size), "totalHits": len(users)})

        return await simulator.run(work)

    async def _availability(self, _: Request) -> Response:
        watermark = self._simulator.details_watermark_ms(self._simulator.clock.now())
        return JSONResponse({"dataAvailabilityDate": intervals.iso(watermark)})


@dataclass(frozen=True)
class UserAggregates:
    """The endpoints of user aggregates."""

    job_service: JobService

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        permissions = USERS.permissions
        routes = [gate.route("POST", f"{AGGREGATES}/query", "sync_query", self._query, permissions)]
        if self._simulator.settings.aggregate_jobs:
            routes += JobRoutes(
                self.job_service, f"{AGGREGATES}/jobs", permissions, self._prepare, from_data_lake=False
            ).routes(gate)
        return routes

    @property
    def _simulator(self) -> Simulator:
        return self.job_service.simulator

    def _sums(self, body: AggregationBody) -> UserSums:
        simulator, settings = self._simulator, self._simulator.settings
        check_names(body, USERS)
        predicates = body.filter.all_predicates() if body.filter else []
        if len(predicates) > _MAX_USER_PREDICATES:
            raise bad_request(f"filter: at most {_MAX_USER_PREDICATES} predicates on userId")
        edges = bucket_edges(body, settings.max_buckets)
        shortest = int(np.diff(edges)[:-1].min()) if len(edges) > 2 else None
        if shortest is not None and shortest < settings.user_aggregate_min_seconds * 1000:
            raise bad_request(f"granularity: at least PT{settings.user_aggregate_min_seconds}S for users")
        condition = build_condition(body.filter, simulator.organisation, USERS.dimensions)
        visible_until_ms = simulator.visible_until_ms(simulator.clock.now(), from_data_lake=False)
        metrics = tuple(dict.fromkeys(body.metrics))
        sums = UserSums(
            simulator,
            edges,
            tuple(_select_agents(simulator, condition)),
            bool(body.group_by),
            metrics,
            visible_until_ms,
            simulator.max_rows(),
        )
        max_bytes = simulator.faults.current.max_bytes
        if max_bytes is None:
            return sums
        count = sum(len(result["data"]) for result in sums.page(0, len(sums))["results"])
        fitting = most_that_fit(
            count, max_bytes, lambda size: json_length(replace(sums, max_rows=size).page(0, len(sums)))
        )
        return replace(sums, max_rows=fitting)

    async def _query(self, request: Request) -> Response:
        body = await read_json(request, AggregationBody, self._simulator.settings.max_body_bytes)
        reject_page_size(body)
        sums = self._sums(body)
        self._simulator.check_size(sums.interval)
        return await self._simulator.run(lambda: JSONResponse(sums.page(0, len(sums))))

    async def _prepare(self, request: Request) -> PreparedQuery:
        settings = self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        sums = self._sums(body)
        cells = len(sums) * (len(sums.edges) - 1)
        page_size = job_page_size(body, settings)
        return PreparedQuery(lambda: sums, cells, body.model_dump_json().encode(), sums.interval, page_size)
