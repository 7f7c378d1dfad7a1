"""Aggregate endpoints of every family except users, by query and by job; a results page holds groups with all their buckets."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import ApiError, invalid_value
from cache_pipeline.simulator.genesys_jobs import JobRoutes, JobService, PreparedQuery
from cache_pipeline.simulator.genesys_query import AggregationBody, Answer, Cut, Family, build_answer, build_query
from cache_pipeline.simulator.intervals import whole_interval
from cache_pipeline.simulator.request_gate import Gate, client_id_of
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.state import Simulator

ANALYTICS = "/api/v2/analytics"


def job_page_size(body: AggregationBody, settings: SimulatorSettings) -> int:
    """Return the page size in the body of an aggregate job, or the default.

    Raises:
        ApiError: 400; it is out of range.
    """
    largest = settings.genesys_max_page_size
    size = min(settings.genesys_default_page_size, largest) if body.page_size is None else body.page_size
    if not 1 <= size <= largest:
        raise invalid_value(size, "pageSize", f"1 to {largest}")
    return size


def reject_page_size(body: AggregationBody) -> None:
    """Raise a 400 if a query has a page size, which only a job may have."""
    if body.page_size is not None:
        raise ApiError(400, "invalid.property", "pageSize is only allowed for a job, not for a query")


@dataclass(frozen=True)
class Aggregates:
    """The endpoints of one family."""

    job_service: JobService
    family: Family

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        path, permissions = f"{ANALYTICS}/{self.family.name}/aggregates", self.family.permissions
        routes = [gate.route("POST", f"{path}/query", "sync_query", self._query, permissions)]
        if self._simulator.settings.aggregate_jobs:
            routes += JobRoutes(
                self.job_service, f"{path}/jobs", permissions, self._prepare, from_data_lake=False
            ).routes(gate)
        return routes

    @property
    def _simulator(self) -> Simulator:
        return self.job_service.simulator

    async def _query(self, request: Request) -> Response:
        body = await read_json(request, AggregationBody, self._simulator.settings.max_body_bytes)
        reject_page_size(body)
        prepared = self._prepare_body(body, client_id_of(request), self._simulator.settings.genesys_max_cells, 0)
        self._simulator.check_size(prepared.interval)

        def work() -> Response:
            answer = prepared.work()
            # Serialize in the worker too: a large answer would block the event loop.
            return JSONResponse(answer.page(0, len(answer)))

        return await self._simulator.run(work)

    async def _prepare(self, request: Request) -> PreparedQuery:
        settings = self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        return self._prepare_body(body, client_id_of(request), None, job_page_size(body, settings))

    def _prepare_body(
        self, body: AggregationBody, client_id: str, max_cells: int | None, page_size: int
    ) -> PreparedQuery:
        simulator, settings = self._simulator, self._simulator.settings
        accessible = simulator.division_limit(client_id)
        query = build_query(body, self.family, simulator.organisation, settings, accessible)
        visibility = simulator.visibility(simulator.clock.now())
        max_rows, faults = simulator.max_rows(), simulator.faults.current
        cut = Cut(max_cells if max_rows is None else max_rows, faults.max_bytes, by_group=faults.order == "groups")

        def work() -> Answer:
            return build_answer(
                simulator.aggregate(query, visibility),
                body.metrics,
                self.family,
                cut,
                settings.service_level_target,
                simulator.organisation,
            )

        interval = whole_interval(query.edges)
        return PreparedQuery(
            work, simulator.possible_cells(query), body.model_dump_json().encode(), interval, page_size
        )
