"""Details of conversations: by job (what had activity in the interval) and by query (what began on a day it touches).

Fixed by the vendor's documents: the fields of body and rows, `cursor` and `conversations` absent where there is none,
`dataAvailabilityDate`, attributes in jobs only, the page size and depth of queries, the overlap of jobs. Readings and choices
of the simulator:
- a job's interval and a conversation overlap where the conversation began before the end, and something happened in it after
  the start; one that is still open goes on happening;
- with `startOfDayIntervalMatching`, and in queries always, it must besides have begun no earlier than the UTC midnight before
  the interval's start;
- evaluation, survey and resolution filters, aggregations and matching by an id are refused with a 400 that says so;
- a segment filter holds for a conversation if its call has the value.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import genesys_vocabulary as words
from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import dimension_codes
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.calls import Calls, Codes, Flags, Sight
from cache_pipeline.simulator.conversation_rows import Seen, conversation_of
from cache_pipeline.simulator.errors import ApiError, bad_request
from cache_pipeline.simulator.filters import Condition, Membership
from cache_pipeline.simulator.genesys_filters import Filter, all_of, condition_of, unimplemented
from cache_pipeline.simulator.genesys_jobs import JobDesk, JobRoutes, Prepared
from cache_pipeline.simulator.request_gate import Gate, client_of
from cache_pipeline.simulator.state import Simulator

PATH = "/api/v2/analytics/conversations/details"
_PERMISSIONS = ("analytics:conversationDetail:view", "analytics:agentConversationDetail:view")
_UTC = ZoneInfo("UTC")
_DAY_MS = 86_400_000
_QUERY_PAGE_SIZE, _QUERY_MAX_PAGE_SIZE, _QUERY_MAX_ROWS = 25, 100, 100_000
_ORPHAN_RESOLUTION = 1_000_000


class _Details(BaseModel):
    model_config = ConfigDict(extra="forbid")

    interval: str
    conversation_filters: Annotated[list[Filter], Field(alias="conversationFilters")] = []
    segment_filters: Annotated[list[Filter], Field(alias="segmentFilters")] = []
    evaluation_filters: Annotated[list[Any], Field(alias="evaluationFilters")] = []
    survey_filters: Annotated[list[Any], Field(alias="surveyFilters")] = []
    resolution_filters: Annotated[list[Any], Field(alias="resolutionFilters")] = []
    order: Literal["asc", "desc", "unordered"] = "asc"
    order_by: Annotated[
        Literal["conversationStart", "conversationEnd", "segmentStart", "segmentEnd"], Field(alias="orderBy")
    ] = "conversationStart"


class JobBody(_Details):
    """The JSON body of a job."""

    limit: Annotated[int | None, Field(ge=1)] = None
    start_of_day: Annotated[bool, Field(alias="startOfDayIntervalMatching")] = False


class Paging(BaseModel):
    """Which page of a query."""

    model_config = ConfigDict(extra="forbid")

    page_size: Annotated[int, Field(alias="pageSize", ge=1)] = _QUERY_PAGE_SIZE
    page_number: Annotated[int, Field(alias="pageNumber", ge=1)] = 1

    def offset(self) -> int:
        """Return how many entries come before the page.

        Raises:
            ApiError: 400; too large a page, or one too deep.
        """
        if self.page_size > _QUERY_MAX_PAGE_SIZE:
            message = f"paging.pageSize: [{self.page_size}] must be no more than {_QUERY_MAX_PAGE_SIZE}"
            raise ApiError(400, "constraint.validation", message)
        if self.page_size * self.page_number > _QUERY_MAX_ROWS:
            tip = "Tip: reduce the number of results by querying in smaller intervals."
            raise bad_request(f"Pagination may not exceed {_QUERY_MAX_ROWS} results. {tip}")
        return self.page_size * (self.page_number - 1)


class QueryBody(_Details):
    """The JSON body of a query."""

    aggregations: list[Any] = []
    paging: Paging = Paging()


@dataclass(frozen=True)
class DetailsQuery:
    """What a body asks for."""

    interval: intervals.Interval
    start_of_day: bool
    condition: Condition | None
    order: str
    order_by: str
    limit: int | None


@dataclass(frozen=True)
class Conversations:
    """The conversations that a query means, in order; written out a page at a time."""

    simulator: Simulator
    days: tuple[Calls, ...]
    day_of: Codes
    row_of: Codes
    resolved: Flags
    ended: Flags
    orphan: Flags
    with_attributes: bool

    def __len__(self) -> int:
        """How many there are."""
        return len(self.row_of)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `conversations`, absent where the page is empty."""
        places = range(offset, min(offset + size, len(self)))
        rows = [
            conversation_of(self._seen(place), self.simulator.organisation, with_attributes=self.with_attributes)
            for place in places
        ]
        return {"conversations": rows} if rows else {}

    def _seen(self, place: int) -> Seen:
        calls, row = self.days[self.day_of[place]], int(self.row_of[place])
        return Seen(calls, row, bool(self.resolved[place]), bool(self.ended[place]), bool(self.orphan[place]))


def _orphans(calls: Calls, share: float) -> Flags:
    if not share:
        return np.zeros(len(calls.offered_ms), dtype=np.bool_)
    return calls.id_words[:, 1] % np.uint64(_ORPHAN_RESOLUTION) < np.uint64(int(share * _ORPHAN_RESOLUTION))


def interval_of(text: str, longest_days: int) -> intervals.Interval:
    """Return the interval written as `text`.

    Raises:
        ApiError: 400; it is none, or longer than so many days.
    """
    try:
        interval = intervals.parse_interval(text, _UTC)
    except ValueError as error:
        message = f"Dates must be specified as ISO-8601 strings. For example: yyyy-MM-ddTHH:mm:ss[.mmm]Z. {error}"
        raise ApiError(400, "invalid.date", message) from error
    if interval.end_ms - interval.start_ms > longest_days * _DAY_MS:
        raise bad_request(
            f"You must specify a search interval as part of your query that does not exceed {longest_days} days."
        )
    return interval


# Not a dimension of a call: code 0 where the conversation has an end, 1 where it has none yet.
_ENDED = {"conversationEnd": Membership("conversationEnd", np.array([True, False]))}


def _query_of(
    body: _Details, simulator: Simulator, client_id: str, longest_days: int, *, start_of_day: bool, limit: int | None
) -> DetailsQuery:
    for name, given in (
        ("evaluationFilters", body.evaluation_filters),
        ("surveyFilters", body.survey_filters),
        ("resolutionFilters", body.resolution_filters),
    ):
        if given:
            raise unimplemented(name)
    organisation = simulator.organisation
    filters = [
        *(
            condition_of(each, organisation, words.CONVERSATION_DETAIL_DIMENSIONS, _ENDED)
            for each in body.conversation_filters
        ),
        *(condition_of(each, organisation, words.SEGMENT_DETAIL_DIMENSIONS) for each in body.segment_filters),
    ]
    return DetailsQuery(
        interval=interval_of(body.interval, longest_days),
        start_of_day=start_of_day,
        condition=all_of(simulator.division_limit(client_id), *filters),
        order=body.order,
        order_by=body.order_by,
        limit=limit,
    )


def _day_rows(calls: Calls, query: DetailsQuery, simulator: Simulator, sight: Sight) -> tuple[Codes, Flags, Flags]:
    """Return the rows of a day's calls that `query` means, and for every call of the day how far it can be seen."""
    start, end = query.interval.start_ms, query.interval.end_ms
    resolved = calls.seen(calls.resolved_ms, sight)
    ended = calls.seen(calls.ended_ms, sight)
    inside = calls.seen(calls.offered_ms, sight) & (calls.start_ms < end) & (~ended | (calls.ended_ms > start))
    if query.start_of_day:
        inside &= calls.start_ms >= start - start % _DAY_MS
    if query.condition is not None:
        orphans = _orphans(calls, simulator.settings.orphan_share)
        agent = np.where(resolved, calls.agent, simulator.organisation.size("userId"))
        codes = dimension_codes(calls, simulator.organisation, agent)
        codes["conversationEnd"] = np.where(ended & ~orphans, 0, 1)
        inside &= query.condition.holds(codes, len(inside))
    return np.flatnonzero(inside), resolved, ended


def find_conversations(
    simulator: Simulator, query: DetailsQuery, sight: Sight, *, with_attributes: bool
) -> Conversations:
    """Return what `query` means; heavy, so call it in a worker."""
    # A conversation begins a little before its offer, by which days are kept.
    margin = timedelta(minutes=1) // timedelta(milliseconds=1)
    days = tuple(simulator.truth.days_touching(query.interval.start_ms, query.interval.end_ms + margin))
    found = [_day_rows(calls, query, simulator, sight) for calls in days]
    orphans_of = [_orphans(calls, simulator.settings.orphan_share) for calls in days]
    row_of = np.concatenate([rows for rows, _, _ in found])
    day_of = np.repeat(np.arange(len(days)), [len(rows) for rows, _, _ in found])
    by = "ended_ms" if query.order_by.endswith("End") else "start_ms"
    keys = np.concatenate([getattr(calls, by)[rows] for calls, (rows, _, _) in zip(days, found, strict=True)])
    order = np.argsort(keys, kind="stable")
    if query.order == "desc":
        order = order[::-1]
    wished = simulator.faults.current.max_rows
    order = order[: query.limit][:wished]
    return Conversations(
        simulator=simulator,
        days=days,
        day_of=day_of[order],
        row_of=row_of[order],
        resolved=np.concatenate([resolved[rows] for rows, resolved, _ in found])[order],
        ended=np.concatenate([ended[rows] for rows, _, ended in found])[order],
        orphan=np.concatenate([orphans[rows] for orphans, (rows, _, _) in zip(orphans_of, found, strict=True)])[order],
        with_attributes=with_attributes,
    )


@dataclass(frozen=True)
class ConversationDetails:
    """The endpoints over one simulator."""

    desk: JobDesk

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes; the watermark's goes before that of a job, whose id it would else be."""
        return [
            gate.route("GET", f"{PATH}/jobs/availability", "availability", self._availability, _PERMISSIONS[:1]),
            *JobRoutes(self.desk, f"{PATH}/jobs", _PERMISSIONS, self._prepare, in_lake=True).routes(gate),
            gate.route("POST", f"{PATH}/query", "sync_query", self._query, _PERMISSIONS),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.desk.simulator

    async def _prepare(self, request: Request) -> Prepared:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, JobBody, settings.max_body_bytes)
        query = _query_of(
            body,
            simulator,
            client_of(request),
            settings.details_job_max_days,
            start_of_day=body.start_of_day,
            limit=body.limit,
        )
        sight = simulator.details_sight(simulator.clock.now())
        hours = (query.interval.end_ms - query.interval.start_ms) // 3_600_000
        return Prepared(
            lambda: find_conversations(simulator, query, sight, with_attributes=True),
            hours * simulator.organisation.size("queueId"),
            body.model_dump_json().encode(),
        )

    async def _query(self, request: Request) -> Response:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, QueryBody, settings.max_body_bytes)
        if body.aggregations:
            raise unimplemented("aggregations")
        offset = body.paging.offset()
        days = settings.conversations_query_max_days
        query = _query_of(body, simulator, client_of(request), days, start_of_day=True, limit=None)
        sight = simulator.sight(simulator.clock.now())

        def work() -> Response:
            found = find_conversations(simulator, query, sight, with_attributes=False)
            return JSONResponse({**found.page(offset, body.paging.page_size), "totalHits": len(found)})

        return await simulator.run(work)

    async def _availability(self, _: Request) -> Response:
        watermark = self._simulator.details_watermark_ms(self._simulator.clock.now())
        return JSONResponse({"dataAvailabilityDate": intervals.iso(watermark)})
