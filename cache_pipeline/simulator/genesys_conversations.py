"""Conversation details: by job (activity in the interval) and by query (started on a day of the interval).

The vendor documents: the fields of body and rows, `cursor` and `conversations` absent if there are none, `dataAvailabilityDate`,
attributes in jobs only, the page size and depth of queries, the overlap of jobs. The simulator's interpretations and choices:
- a job's interval and a conversation overlap if the conversation began before the end of the interval and had activity after its
  start; an open conversation is always active;
- with `startOfDayIntervalMatching`, and always in queries, the conversation must also have begun no earlier than the UTC midnight
  before the interval's start;
- evaluation, survey and resolution filters, aggregations and matching by an id are refused with a 400 that names them;
- a segment filter matches a conversation if its call has the value.
"""

from dataclasses import dataclass, replace
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
from cache_pipeline.simulator.calls import Calls, Codes, Flags, Visibility
from cache_pipeline.simulator.conversation_rows import VisibleCall, build_conversation
from cache_pipeline.simulator.errors import ApiError, bad_request
from cache_pipeline.simulator.filters import Condition, Membership
from cache_pipeline.simulator.genesys_filters import Filter, all_of, build_condition, unimplemented
from cache_pipeline.simulator.genesys_jobs import JobRoutes, JobService, PreparedQuery
from cache_pipeline.simulator.pages import json_length, most_that_fit
from cache_pipeline.simulator.request_gate import Gate, client_id_of
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
    """The requested page of a query."""

    model_config = ConfigDict(extra="forbid")

    page_size: Annotated[int, Field(alias="pageSize", ge=1)] = _QUERY_PAGE_SIZE
    page_number: Annotated[int, Field(alias="pageNumber", ge=1)] = 1

    def offset(self) -> int:
        """Return how many entries precede the page.

        Raises:
            ApiError: 400; the page is too large or too deep.
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
    """The parsed query of a body."""

    interval: intervals.Interval
    start_of_day: bool
    condition: Condition | None
    order: str
    order_by: str
    limit: int | None


@dataclass(frozen=True)
class Conversations:
    """The conversations of a query, in order; serialized page by page."""

    simulator: Simulator
    days: tuple[Calls, ...]
    day_of: Codes
    row_of: Codes
    resolved: Flags
    ended: Flags
    orphan: Flags
    with_attributes: bool

    def __len__(self) -> int:
        """Return the number of conversations."""
        return len(self.row_of)

    def select(self, positions: Codes) -> "Conversations":
        """Return the conversations at `positions`, in that order."""
        columns = ("day_of", "row_of", "resolved", "ended", "orphan")
        return replace(self, **{name: getattr(self, name)[positions] for name in columns})

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return `conversations`, absent if the page is empty."""
        positions = range(offset, min(offset + size, len(self)))
        rows = [
            build_conversation(self._call(position), self.simulator.organisation, with_attributes=self.with_attributes)
            for position in positions
        ]
        return {"conversations": rows} if rows else {}

    def _call(self, position: int) -> VisibleCall:
        calls, row = self.days[self.day_of[position]], int(self.row_of[position])
        return VisibleCall(
            calls, row, bool(self.resolved[position]), bool(self.ended[position]), bool(self.orphan[position])
        )


def _orphans(calls: Calls, share: float) -> Flags:
    if not share:
        return np.zeros(len(calls.offered_ms), dtype=np.bool_)
    return calls.id_words[:, 1] % np.uint64(_ORPHAN_RESOLUTION) < np.uint64(int(share * _ORPHAN_RESOLUTION))


def parse_details_interval(text: str, max_days: int) -> intervals.Interval:
    """Return the interval in `text`.

    Raises:
        ApiError: 400; it is not an interval, or it is longer than `max_days`.
    """
    try:
        interval = intervals.parse_interval(text, _UTC)
    except ValueError as error:
        message = f"Dates must be specified as ISO-8601 strings. For example: yyyy-MM-ddTHH:mm:ss[.mmm]Z. {error}"
        raise ApiError(400, "invalid.date", message) from error
    if interval.end_ms - interval.start_ms > max_days * _DAY_MS:
        raise bad_request(
            f"You must specify a search interval as part of your query that does not exceed {max_days} days."
        )
    return interval


# Not a dimension of a call: code 0 if the conversation has an end, 1 if it does not have one yet.
_ENDED = {"conversationEnd": Membership("conversationEnd", np.array([True, False]))}


def _parse_query(
    body: _Details, simulator: Simulator, client_id: str, max_days: int, *, start_of_day: bool, limit: int | None
) -> DetailsQuery:
    for name, value in (
        ("evaluationFilters", body.evaluation_filters),
        ("surveyFilters", body.survey_filters),
        ("resolutionFilters", body.resolution_filters),
    ):
        if value:
            raise unimplemented(name)
    organisation = simulator.organisation
    filters = [
        *(
            build_condition(filter_, organisation, words.CONVERSATION_DETAIL_DIMENSIONS, _ENDED)
            for filter_ in body.conversation_filters
        ),
        *(build_condition(filter_, organisation, words.SEGMENT_DETAIL_DIMENSIONS) for filter_ in body.segment_filters),
    ]
    return DetailsQuery(
        interval=parse_details_interval(body.interval, max_days),
        start_of_day=start_of_day,
        condition=all_of(simulator.division_limit(client_id), *filters),
        order=body.order,
        order_by=body.order_by,
        limit=limit,
    )


def _day_rows(
    calls: Calls, query: DetailsQuery, simulator: Simulator, visibility: Visibility
) -> tuple[Codes, Flags, Flags]:
    """Return the selected rows of a day's calls, and for every call whether it is visibly resolved and ended."""
    start, end = query.interval.start_ms, query.interval.end_ms
    resolved = calls.visible(calls.resolved_ms, visibility)
    ended = calls.visible(calls.ended_ms, visibility)
    selected = (
        calls.visible(calls.offered_ms, visibility) & (calls.start_ms < end) & (~ended | (calls.ended_ms > start))
    )
    if query.start_of_day:
        selected &= calls.start_ms >= start - start % _DAY_MS
    if query.condition is not None:
        orphans = _orphans(calls, simulator.settings.orphan_share)
        agent = np.where(resolved, calls.agent, simulator.organisation.size("userId"))
        codes = dimension_codes(calls, simulator.organisation, agent)
        codes["conversationEnd"] = np.where(ended & ~orphans, 0, 1)
        selected &= query.condition.holds(codes, len(selected))
    return np.flatnonzero(selected), resolved, ended


def find_conversations(
    simulator: Simulator,
    query: DetailsQuery,
    visibility: Visibility,
    max_rows: int | None,
    *,
    with_attributes: bool,
) -> Conversations:
    """Return the conversations of `query`. This is expensive, so call it in a worker."""
    # A conversation begins a little before its offer, which determines its day.
    margin = timedelta(minutes=1) // timedelta(milliseconds=1)
    days = tuple(simulator.truth.days_overlapping(query.interval.start_ms, query.interval.end_ms + margin))
    selections = [_day_rows(calls, query, simulator, visibility) for calls in days]
    orphans_of = [_orphans(calls, simulator.settings.orphan_share) for calls in days]
    row_of = np.concatenate([rows for rows, _, _ in selections])
    day_of = np.repeat(np.arange(len(days)), [len(rows) for rows, _, _ in selections])
    key_column = "ended_ms" if query.order_by.endswith("End") else "start_ms"
    keys = np.concatenate(
        [getattr(calls, key_column)[rows] for calls, (rows, _, _) in zip(days, selections, strict=True)]
    )
    order = np.argsort(keys, kind="stable")
    if query.order == "desc":
        order = order[::-1]
    order = order[: query.limit][:max_rows]
    all_rows = Conversations(
        simulator=simulator,
        days=days,
        day_of=day_of,
        row_of=row_of,
        resolved=np.concatenate([resolved[rows] for rows, resolved, _ in selections]),
        ended=np.concatenate([ended[rows] for rows, _, ended in selections]),
        orphan=np.concatenate([orphans[rows] for orphans, (rows, _, _) in zip(orphans_of, selections, strict=True)]),
        with_attributes=with_attributes,
    ).select(order)
    max_bytes = simulator.faults.current.max_bytes
    if max_bytes is None:
        return all_rows
    count = most_that_fit(len(all_rows), max_bytes, lambda size: json_length(all_rows.page(0, size)))
    return all_rows.select(np.arange(count))


@dataclass(frozen=True)
class ConversationDetails:
    """The endpoints of conversation details."""

    job_service: JobService

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes. The watermark comes before a job, because its path would match a job id."""
        return [
            gate.route("GET", f"{PATH}/jobs/availability", "availability", self._availability, _PERMISSIONS[:1]),
            *JobRoutes(self.job_service, f"{PATH}/jobs", _PERMISSIONS, self._prepare, from_data_lake=True).routes(gate),
            gate.route("POST", f"{PATH}/query", "sync_query", self._query, _PERMISSIONS),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.job_service.simulator

    async def _prepare(self, request: Request) -> PreparedQuery:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, JobBody, settings.max_body_bytes)
        query = _parse_query(
            body,
            simulator,
            client_id_of(request),
            settings.details_job_max_days,
            start_of_day=body.start_of_day,
            limit=body.limit,
        )
        visibility = simulator.details_visibility(simulator.clock.now())
        max_rows = simulator.max_rows()
        return PreparedQuery(
            lambda: find_conversations(simulator, query, visibility, max_rows, with_attributes=True),
            query.interval.length_ms // 3_600_000 * simulator.organisation.size("queueId"),
            body.model_dump_json().encode(),
            query.interval,
        )

    async def _query(self, request: Request) -> Response:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, QueryBody, settings.max_body_bytes)
        if body.aggregations:
            raise unimplemented("aggregations")
        offset = body.paging.offset()
        days = settings.conversations_query_max_days
        query = _parse_query(body, simulator, client_id_of(request), days, start_of_day=True, limit=None)
        simulator.check_size(query.interval)
        visibility, max_rows = simulator.visibility(simulator.clock.now()), simulator.max_rows()

        def work() -> Response:
            result = find_conversations(simulator, query, visibility, max_rows, with_attributes=False)
            return JSONResponse({**result.page(offset, body.paging.page_size), "totalHits": len(result)})

        return await simulator.run(work)

    async def _availability(self, _: Request) -> Response:
        watermark = self._simulator.details_watermark_ms(self._simulator.clock.now())
        return JSONResponse({"dataAvailabilityDate": intervals.iso(watermark)})
