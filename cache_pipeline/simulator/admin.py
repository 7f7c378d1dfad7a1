"""The simulator's own endpoints: health, counters, faults, restatements, names and the truth; no token and no rate limit."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import FACTS, AggregateQuery
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.calls import PlacedCall
from cache_pipeline.simulator.errors import ApiError, bad_request
from cache_pipeline.simulator.faults import Faults
from cache_pipeline.simulator.gdpr_requests import GdprRequest
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.request_gate import Handler
from cache_pipeline.simulator.state import Simulator

_CONTEXT_ID = "simulator"


class Restatement(BaseModel):
    """The body of `POST /simulator/restatements`: the local day whose calls are restated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: date


class DirectoryChange(BaseModel):
    """The body of `POST /simulator/directory`: what is renamed or deleted; omitted fields stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    id: str
    name: str | None = None
    deleted: bool | None = None


class CallToPlace(BaseModel):
    """The body of `POST /simulator/calls`: a call that is offered now. Without an agent it is not answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: Annotated[int, Field(ge=0)] = 0
    medium: Literal["voice", "chat", "email"] = "voice"
    agent: Annotated[int, Field(ge=0)] | None = 0
    wait_seconds: Annotated[float, Field(ge=0, le=14_400)] = 60.0
    talk_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0


class Admin:
    """The simulator's own endpoints."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[Route]:
        """Return the unauthenticated routes."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/simulator/health", self._health),
            ("GET", "/simulator/counters", self._counters),
            ("DELETE", "/simulator/counters", self._reset_counters),
            ("GET", "/simulator/faults", self._faults),
            ("POST", "/simulator/faults", self._set_faults),
            ("DELETE", "/simulator/faults", self._clear_faults),
            ("POST", "/simulator/restatements", self._restate),
            ("POST", "/simulator/calls", self._place_call),
            ("GET", "/simulator/directory", self._directory),
            ("POST", "/simulator/directory", self._change_directory),
            ("POST", "/simulator/gdpr-requests", self._add_gdpr_request),
            ("GET", "/simulator/truth", self._read_truth),
        ]
        return [Route(path, _unauthenticated(handler), methods=[method]) for method, path, handler in table]

    async def _health(self, _: Request) -> Response:
        now = self._simulator.clock.now()
        watermark = intervals.iso(self._simulator.watermark_ms(now))
        return JSONResponse({"status": "ok", "now": intervals.iso(int(now * 1000)), "watermark": watermark})

    async def _counters(self, _: Request) -> Response:
        return JSONResponse(self._simulator.counters.snapshot())

    async def _reset_counters(self, _: Request) -> Response:
        self._simulator.counters.reset()
        return Response(status_code=204)

    async def _faults(self, _: Request) -> Response:
        return JSONResponse(self._simulator.faults.current.model_dump())

    async def _set_faults(self, request: Request) -> Response:
        faults = await read_json(request, Faults, self._simulator.settings.max_body_bytes)
        self._simulator.faults.replace(faults, self._simulator.clock.now())
        return await self._faults(request)

    async def _clear_faults(self, _: Request) -> Response:
        self._simulator.faults.replace(Faults(), self._simulator.clock.now())
        return Response(status_code=204)

    async def _restate(self, request: Request) -> Response:
        body = await read_json(request, Restatement, self._simulator.settings.max_body_bytes)
        self._simulator.truth.restate(body.day)
        return Response(status_code=204)

    async def _place_call(self, request: Request) -> Response:
        settings = self._simulator.settings
        body = await read_json(request, CallToPlace, settings.max_body_bytes)
        for name, value, count in (("queue", body.queue, settings.queues), ("agent", body.agent or 0, settings.agents)):
            if value >= count:
                raise bad_request(f"{name}: there is no {name} {value}; expected less than {count}")
        now_ms = int(self._simulator.clock.now() * 1000)
        self._simulator.truth.place(
            PlacedCall(
                offered_ms=now_ms,
                queue=body.queue,
                media=MEDIA.index(body.medium),
                agent=body.agent,
                wait_ms=int(body.wait_seconds * 1000),
                talk_ms=int(body.talk_seconds * 1000),
            )
        )
        return JSONResponse({"queueId": self._simulator.organisation.values["queueId"][body.queue]}, 201)

    async def _add_gdpr_request(self, request: Request) -> Response:
        body = await read_json(request, GdprRequest, self._simulator.settings.max_body_bytes)
        created = self._simulator.vendor_time(self._simulator.clock.now())
        return JSONResponse({"id": self._simulator.gdpr_requests.add(body, created)}, 201)

    async def _directory(self, _: Request) -> Response:
        directory = self._simulator.directory
        return JSONResponse(
            {kind: {entry.id: entry.name for entry in directory.entries(kind)} for kind in directory.kinds}
        )

    async def _change_directory(self, request: Request) -> Response:
        body = await read_json(request, DirectoryChange, self._simulator.settings.max_body_bytes)
        directory = self._simulator.directory
        if body.kind not in directory.kinds:
            raise bad_request(f"kind: unknown value {body.kind}; expected one of {', '.join(directory.kinds)}")
        if not directory.change(body.kind, body.id, name=body.name, is_deleted=body.deleted):
            raise bad_request(f"id: there is no {body.kind} with id {body.id}")
        return Response(status_code=204)

    async def _read_truth(self, request: Request) -> Response:
        query = _truth_query(request, self._simulator)
        (fact,), organisation = query.facts, self._simulator.organisation

        def work() -> Response:
            result = self._simulator.aggregate(query, None)
            cells = result.cells()
            rows: list[dict[str, Any]] = []
            column = result.at(fact, cells)
            for cell, count, total in zip(cells.tolist(), column.count.tolist(), column.total.tolist(), strict=True):
                start, end = result.bucket(cell)
                bucket = {"intervalStart": intervals.iso(start), "intervalEnd": intervals.iso(end)}
                rows.append({**bucket, **result.group(cell, organisation), fact: count, f"{fact}Ms": total})
            return JSONResponse({"rows": rows})

        return await self._simulator.run(work)


def _truth_query(request: Request, simulator: Simulator) -> AggregateQuery:
    parameters = request.query_params
    group_by = tuple(name for name in parameters.get("groupBy", "").split(",") if name)
    if unknown := [name for name in group_by if not simulator.organisation.size(name)]:
        raise bad_request(
            f"groupBy: unknown dimension {unknown[0]}; expected one of {', '.join(simulator.organisation.values)}"
        )
    fact = parameters.get("fact", "offered")
    if fact not in FACTS:
        raise bad_request(f"fact: unknown value {fact}; expected one of {', '.join(FACTS)}")
    try:
        zone = intervals.parse_zone(parameters.get("timeZone", "UTC"))
        interval = intervals.parse_interval(parameters.get("interval", ""), zone)
        granularity = parameters.get("granularity")
        edges = (
            intervals.period_edges(interval, intervals.parse_period(granularity), zone, simulator.settings.max_buckets)
            if granularity
            else intervals.single_bucket(interval)
        )
    except ValueError as error:
        raise bad_request(str(error)) from error
    return AggregateQuery(edges, tuple(dict.fromkeys(group_by)), (fact,))


def _unauthenticated(handler: Handler) -> Handler:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return error.response(_CONTEXT_ID)

    return endpoint
