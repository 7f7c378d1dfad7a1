"""What agents did: presence and routing status as stretches (details) and as sums by bucket (aggregates).

Fixed by the vendor's documents: the fields of body and rows, the words of presence and status, `qualifier`, the 7 and 31 days
of queries, 100 predicates on users. Readings and choices of the simulator:
- a stretch belongs to an answer if it overlaps the interval, and is told whole; it ends at local midnight;
- one that goes on beyond what can be seen has no `endTime`;
- an aggregate's sum is the time that lies inside the bucket;
- `order` is the order of users by id.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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
from cache_pipeline.simulator.genesys_aggregates import ANALYTICS, job_page_size, no_page_size
from cache_pipeline.simulator.genesys_conversations import Paging, interval_of
from cache_pipeline.simulator.genesys_filters import Filter, all_of, condition_of, unimplemented
from cache_pipeline.simulator.genesys_jobs import JobDesk, JobRoutes, Prepared
from cache_pipeline.simulator.genesys_query import USERS, AggregationBody, check_words, edges_of
from cache_pipeline.simulator.presence import AgentDay, Stretch
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


def _chosen(simulator: Simulator, condition: Condition | None) -> list[int]:
    """Return the codes of the agents for whom the condition holds."""
    codes: Codes = np.arange(simulator.organisation.size("userId"), dtype=np.int64)
    holds: Flags = condition.holds({"userId": codes}, len(codes)) if condition else np.ones(len(codes), dtype=np.bool_)
    return np.flatnonzero(holds).tolist()


@dataclass(frozen=True)
class Users:
    """The agents that a query means, with their stretches; written out a page at a time."""

    simulator: Simulator
    agents: tuple[int, ...]
    interval: intervals.Interval
    seen_until_ms: int

    def __len__(self) -> int:
        """How many agents there are."""
        return len(self.agents)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `userDetails`, absent where the page is empty."""
        ids = self.simulator.organisation.values["userId"]
        users = [{"userId": ids[agent], **self._stretches(agent)} for agent in self.agents[offset : offset + size]]
        return {"userDetails": users} if users else {}

    def _stretches(self, agent: int) -> dict[str, Any]:
        presences = self.simulator.organisation.presences
        days = list(self.simulator.presence.days(self.interval.start_ms, self.interval.end_ms))
        return {
            "primaryPresence": [
                {**self._told(each), "systemPresence": each.state, "organizationPresenceId": presences[each.state]}
                for each in self._inside(day[agent].presence for day in days)
            ],
            "routingStatus": [
                {**self._told(each), "routingStatus": each.state}
                for each in self._inside(day[agent].routing for day in days)
            ],
        }

    def _inside(self, days: Iterator[tuple[Stretch, ...]]) -> Iterator[Stretch]:
        end = min(self.interval.end_ms, self.seen_until_ms)
        return (each for day in days for each in day if each.start_ms < end and each.end_ms > self.interval.start_ms)

    def _told(self, stretch: Stretch) -> dict[str, str]:
        times = {"startTime": intervals.iso(stretch.start_ms)}
        if stretch.end_ms <= self.seen_until_ms:
            times["endTime"] = intervals.iso(stretch.end_ms)
        return times


def _timeline(day: AgentDay, metric: str, presences: dict[str, str]) -> Iterator[tuple[int, int, str]]:
    """Yield the stretches that a metric adds up, with the qualifier each is told under."""
    for each in day.routing if metric == "tAgentRoutingStatus" else day.presence:
        qualifier = presences[each.state] if metric == "tOrganizationPresence" else each.state
        yield each.start_ms, each.end_ms, qualifier


@dataclass(frozen=True)
class UserSums:
    """Time by agent (or all together), bucket, metric and qualifier; written out a page of groups at a time."""

    simulator: Simulator
    edges: intervals.Milliseconds
    agents: tuple[int, ...]
    by_user: bool
    metrics: tuple[str, ...]
    seen_until_ms: int

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self.agents) if self.by_user else min(1, len(self.agents))

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `results`, and which of the organisation's presences each of the system's stands for."""
        ids = self.simulator.organisation.values["userId"]
        groups = [(agent,) for agent in self.agents] if self.by_user else [self.agents] * len(self)
        results = [
            {"group": {"userId": ids[agents[0]]} if self.by_user else {}, "data": data}
            for agents in groups[offset : offset + size]
            if (data := self._data(agents))
        ]
        mappings = {presence: [id_] for presence, id_ in self.simulator.organisation.presences.items()}
        return {"results": results, "systemToOrganizationMappings": mappings}

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
        first, last = int(self.edges[0]), min(int(self.edges[-1]), self.seen_until_ms)
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
    """The endpoints of details over one simulator."""

    desk: JobDesk

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes; the watermark's goes before that of a job."""
        permissions = (_DETAILS_PERMISSION,)
        return [
            gate.route("GET", f"{DETAILS}/jobs/availability", "availability", self._availability, permissions),
            *JobRoutes(self.desk, f"{DETAILS}/jobs", permissions, self._prepare, in_lake=True).routes(gate),
            gate.route("POST", f"{DETAILS}/query", "sync_query", self._query, permissions),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.desk.simulator

    def _users(self, body: _Details, longest_days: int, limit: int | None, seen_until_ms: int) -> Users:
        for name, given in (
            ("presenceFilters", body.presence_filters),
            ("routingStatusFilters", body.routing_status_filters),
        ):
            if given:
                raise unimplemented(name)
        simulator = self._simulator
        filters = (condition_of(each, simulator.organisation, words.USER_DIMENSIONS) for each in body.user_filters)
        ids = simulator.organisation.values["userId"]
        agents = sorted(_chosen(simulator, all_of(*filters)), key=ids.__getitem__, reverse=body.order == "desc")
        interval = interval_of(body.interval, longest_days)
        return Users(simulator, tuple(agents[:limit][: simulator.faults.current.max_rows]), interval, seen_until_ms)

    async def _prepare(self, request: Request) -> Prepared:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, UsersJobBody, settings.max_body_bytes)
        until = simulator.seen_until_ms(simulator.clock.now(), in_lake=True)
        users = self._users(body, settings.details_job_max_days, body.limit, until)
        hours = (users.interval.end_ms - users.interval.start_ms) // 3_600_000
        return Prepared(lambda: users, hours * len(users), body.model_dump_json().encode())

    async def _query(self, request: Request) -> Response:
        simulator = self._simulator
        body = await read_json(request, UsersQueryBody, simulator.settings.max_body_bytes)
        if body.presence_aggregations or body.routing_status_aggregations:
            raise unimplemented("aggregations")
        offset = body.paging.offset()
        until = simulator.seen_until_ms(simulator.clock.now(), in_lake=False)
        users = self._users(body, _FILTERED_QUERY_DAYS if body.user_filters else _QUERY_DAYS, None, until)

        def work() -> Response:
            return JSONResponse({**users.page(offset, body.paging.page_size), "totalHits": len(users)})

        return await simulator.run(work)

    async def _availability(self, _: Request) -> Response:
        watermark = self._simulator.details_watermark_ms(self._simulator.clock.now())
        return JSONResponse({"dataAvailabilityDate": intervals.iso(watermark)})


@dataclass(frozen=True)
class UserAggregates:
    """The endpoints of aggregates over one simulator."""

    desk: JobDesk

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes."""
        permissions = USERS.permissions
        routes = [gate.route("POST", f"{AGGREGATES}/query", "sync_query", self._query, permissions)]
        if self._simulator.settings.aggregate_jobs:
            routes += JobRoutes(self.desk, f"{AGGREGATES}/jobs", permissions, self._prepare, in_lake=False).routes(gate)
        return routes

    @property
    def _simulator(self) -> Simulator:
        return self.desk.simulator

    def _sums(self, body: AggregationBody) -> UserSums:
        simulator, settings = self._simulator, self._simulator.settings
        check_words(body, USERS)
        predicates = body.filter.all_predicates() if body.filter else []
        if len(predicates) > _MAX_USER_PREDICATES:
            raise bad_request(f"filter: at most {_MAX_USER_PREDICATES} predicates on userId")
        edges = edges_of(body, settings.max_buckets)
        shortest = int(np.diff(edges)[:-1].min()) if len(edges) > 2 else None
        if shortest is not None and shortest < settings.user_aggregate_min_seconds * 1000:
            raise bad_request(f"granularity: at least PT{settings.user_aggregate_min_seconds}S for users")
        condition = condition_of(body.filter, simulator.organisation, USERS.dimensions)
        until = simulator.seen_until_ms(simulator.clock.now(), in_lake=False)
        metrics = tuple(dict.fromkeys(body.metrics))
        return UserSums(simulator, edges, tuple(_chosen(simulator, condition)), bool(body.group_by), metrics, until)

    async def _query(self, request: Request) -> Response:
        body = await read_json(request, AggregationBody, self._simulator.settings.max_body_bytes)
        no_page_size(body)
        sums = self._sums(body)
        return await self._simulator.run(lambda: JSONResponse(sums.page(0, len(sums))))

    async def _prepare(self, request: Request) -> Prepared:
        settings = self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        sums = self._sums(body)
        cells = len(sums) * (len(sums.edges) - 1)
        return Prepared(lambda: sums, cells, body.model_dump_json().encode(), job_page_size(body, settings))
