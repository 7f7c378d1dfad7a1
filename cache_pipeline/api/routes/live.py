"""Routes of the live page: the boards that a viewer may see, and their streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from cache_pipeline.aio import wait_for_event
from cache_pipeline.api import schemas
from cache_pipeline.api.dependencies import QueryServiceDependency, Viewer, find_viewer
from cache_pipeline.api.event_streams import KEEP_ALIVE_SECONDS, STREAM_HEADERS, check_streams, open_stream
from cache_pipeline.api.key_limits import may_query
from cache_pipeline.api.live_board import BoardReader, has_board
from cache_pipeline.api.live_stream import ReadBoard, format_event
from cache_pipeline.api.openapi import problem_responses
from cache_pipeline.api.parsing import check_permission
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.storage.ports.api_keys import Principal

router = APIRouter(tags=["reports"])


@router.get(
    "/v1/live", responses=problem_responses(), summary="List the boards of the live page", operation_id="listBoards"
)
async def list_boards(query_service: QueryServiceDependency, viewer: Viewer, response: Response) -> schemas.BoardList:
    """Return the live reports that the page `/live` shows to this caller, with their thresholds."""
    response.headers["Cache-Control"] = "no-store"
    return schemas.BoardList(
        boards=[
            schemas.BoardInfo(
                name=name,
                description=report.description,
                events=f"/v1/live/{name}/events",
                thresholds=report.thresholds.model_dump(exclude_none=True),
                has_service_level=report.service_level is not None,
            )
            for name, report in query_service.live_reports.items()
            if may_query(viewer, report) and has_board(report)
        ]
    )


@router.get(
    "/v1/live/{report}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent `board` events with what the page shows and its age in seconds; `age` events if that is all that "
            "changes; `problem` events with problem details while it cannot be read",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problem_responses(403, 404, 422, 429),
    },
    summary="Stream a board of the live page",
    operation_id="followBoard",
)
async def follow_board(
    report: Annotated[str, Path(description="Name of a declared live report", max_length=47)],
    query_service: QueryServiceDependency,
    viewer: Viewer,
    request: Request,
) -> StreamingResponse:
    """Stream what happens now, whenever it changes. A key may have twenty streams open in each process, and they end when it is revoked."""
    found = check_permission(query_service.live_reports, report, viewer)
    if not has_board(found):
        raise Problem("no-board", 404, f"{report} is not by queue: query it at /v1/reports/{report}")
    check_streams(query_service.open_streams, viewer)
    events = _events(query_service, found, viewer, request)
    return StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")


async def _events(
    query_service: QueryService, report: LiveReport, viewer: Principal, request: Request
) -> AsyncGenerator[bytes]:
    def open_reader() -> ReadBoard:
        return BoardReader(query_service, report, viewer.tenant).read

    shown: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None
    with open_stream(query_service.open_streams, viewer):
        async with query_service.board_feeds.subscribe(report.name, viewer.tenant, open_reader) as (feed, changed):
            while True:
                is_new = False
                if feed.board is not None and feed.board is not shown:
                    before, shown, is_new = shown, feed.board, True
                    yield _board_event(before, shown, query_service.clock())
                if feed.problem != problem:
                    problem, is_new = feed.problem, True
                    yield format_event("problem", problem or {})
                if not is_new:
                    yield b": keep-alive\n\n"
                await wait_for_event(changed, KEEP_ALIVE_SECONDS)
                if await find_viewer(query_service, request) is None:
                    return


def _board_event(before: Mapping[str, Any] | None, board: Mapping[str, Any], now: datetime) -> bytes:
    """Return the event of a board; only its age, if nothing else has changed."""
    observed_at = board["observedAt"]
    age = max(0.0, (now - datetime.fromisoformat(observed_at)).total_seconds())
    times = {"observedAt": observed_at, "ageSeconds": round(age, 1)}
    if before is not None and {**before, "observedAt": observed_at} == board:
        return format_event("age", times)
    return format_event("board", {**board, **times})
