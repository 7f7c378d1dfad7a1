"""Aggregates of every family but users, at once or as a job; a page of job results holds groups with all their buckets."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import ApiError, invalid_value
from cache_pipeline.simulator.genesys_jobs import JobDesk, JobRoutes, Prepared
from cache_pipeline.simulator.genesys_query import AggregationBody, Answer, Family, answer_of, query_of
from cache_pipeline.simulator.request_gate import Gate, client_of
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.state import Simulator

ANALYTICS = "/api/v2/analytics"


def job_page_size(body: AggregationBody, settings: SimulatorSettings) -> int:
    """Return the page size that the body of an aggregate job names, or the default.

    Raises:
        ApiError: 400; it is out of range.
    """
    largest = settings.genesys_max_page_size
    size = min(settings.genesys_default_page_size, largest) if body.page_size is None else body.page_size
    if not 1 <= size <= largest:
        raise invalid_value(size, "pageSize", f"1 to {largest}")
    return size


def no_page_size(body: AggregationBody) -> None:
    """Raise a 400 if a query names a page size, which belongs to a job."""
    if body.page_size is not None:
        raise ApiError(400, "invalid.property", "pageSize belongs to a job, not to a query")


@dataclass(frozen=True)
class Aggregates:
    """The endpoints of one family over one simulator."""

    desk: JobDesk
    family: Family

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes."""
        path, permissions = f"{ANALYTICS}/{self.family.name}/aggregates", self.family.permissions
        routes = [gate.route("POST", f"{path}/query", "sync_query", self._query, permissions)]
        if self._simulator.settings.aggregate_jobs:
            routes += JobRoutes(self.desk, f"{path}/jobs", permissions, self._prepare, in_lake=False).routes(gate)
        return routes

    @property
    def _simulator(self) -> Simulator:
        return self.desk.simulator

    async def _query(self, request: Request) -> Response:
        body = await read_json(request, AggregationBody, self._simulator.settings.max_body_bytes)
        no_page_size(body)
        prepared = self._prepared(body, client_of(request), self._simulator.settings.genesys_max_cells, 0)

        def work() -> Response:
            answer = prepared.work()
            # Written out as JSON here too: a large answer would hold up the event loop.
            return JSONResponse(answer.page(0, len(answer)))

        return await self._simulator.run(work)

    async def _prepare(self, request: Request) -> Prepared:
        settings = self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        return self._prepared(body, client_of(request), None, job_page_size(body, settings))

    def _prepared(self, body: AggregationBody, client_id: str, max_cells: int | None, page_size: int) -> Prepared:
        simulator, settings = self._simulator, self._simulator.settings
        seen = simulator.division_limit(client_id)
        query = query_of(body, self.family, simulator.organisation, settings, seen)
        sight = simulator.sight(simulator.clock.now())
        wished = simulator.faults.current.max_rows

        def work() -> Answer:
            return answer_of(
                simulator.aggregate(query, sight),
                body.metrics,
                self.family,
                max_cells if wished is None else wished,
                settings.service_level_target,
                simulator.organisation,
            )

        return Prepared(work, simulator.possible_cells(query), body.model_dump_json().encode(), page_size)
