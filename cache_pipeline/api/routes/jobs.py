"""Routes of jobs: their progress, by polling or server-sent events, and their cancellation."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from cache_pipeline.aio import wait_for_event
from cache_pipeline.api import schemas
from cache_pipeline.api.dependencies import Caller, QueryServiceDependency, find_principal
from cache_pipeline.api.event_streams import KEEP_ALIVE_SECONDS, STREAM_HEADERS, check_streams, open_stream
from cache_pipeline.api.openapi import problem_responses
from cache_pipeline.api.parsing import answer_url
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.jobs import ApiJob

router = APIRouter(tags=["jobs"])

JobId = Annotated[UUID, Path(description="The id from Location or the body of a 202")]


def show_job(accepted: AcceptedJob) -> schemas.JobView:
    """Return the response body of a job."""
    job = accepted.job
    return schemas.job_view(
        job, position=accepted.position, retry_after=accepted.retry_after, result=answer_url(job.report, job.request)
    )


async def _get_job(query_service: QueryService, caller: Principal, job_id: UUID) -> ApiJob:
    job = await query_service.jobs.get(job_id, caller.tenant)
    # Whose rows another key's job fetches cannot be seen from its report alone.
    is_limited = caller.queries is not None or caller.divisions is not None
    if job is None or not caller.may_query(job.report) or (is_limited and caller.id not in job.requested_by):
        raise Problem("unknown-job", 404, f"unknown job {job_id}: finished jobs are deleted after a day")
    return job


@router.get("/v1/jobs/{job_id}", responses=problem_responses(404, 422), summary="Get a job", operation_id="readJob")
async def read_job(
    job_id: JobId, query_service: QueryServiceDependency, caller: Caller, response: Response
) -> schemas.JobView:
    """Return a job in any state. Retry-After says when to poll again."""
    accepted = await query_service.describe_job(await _get_job(query_service, caller, job_id))
    response.headers["Cache-Control"] = "no-store"
    if accepted.retry_after:
        response.headers["Retry-After"] = str(accepted.retry_after)
    view = show_job(accepted)
    if view.links.result:
        response.headers["Link"] = f'<{view.links.result}>; rel="result"'
    return view


@router.delete(
    "/v1/jobs/{job_id}", responses=problem_responses(404, 422), summary="Cancel a job", operation_id="cancelJob"
)
async def cancel_job(job_id: JobId, query_service: QueryServiceDependency, caller: Caller) -> schemas.JobView:
    """Stop waiting for a job. It is cancelled if no other key waits for it. A finished job stays as it is."""
    await _get_job(query_service, caller, job_id)
    job = await query_service.jobs.cancel(job_id, caller.tenant, caller.id)
    await query_service.events.publish(job_id)
    return show_job(await query_service.describe_job(job or await _get_job(query_service, caller, job_id)))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent `job` events, each with the job as JSON; the last one has a final state",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problem_responses(404, 422),
    },
    summary="Stream the progress of a job",
    operation_id="followJob",
)
async def follow_job(
    job_id: JobId, query_service: QueryServiceDependency, caller: Caller, request: Request
) -> StreamingResponse:
    """Stream a job until it is finished. Read it with `fetch`: a browser's EventSource cannot send an API key.

    A key may have twenty streams open in each process, and they end when it is revoked.
    """
    job = await _get_job(query_service, caller, job_id)
    check_streams(query_service.open_streams, caller)
    events = _events(query_service, job, caller, request)
    return StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")


async def _events(
    query_service: QueryService, job: ApiJob, caller: Principal, request: Request
) -> AsyncGenerator[bytes]:
    previous = ""
    with open_stream(query_service.open_streams, caller):
        async with query_service.events.subscribe(job.id) as changed:
            while True:
                view = show_job(await query_service.describe_shared(job))
                data = json.dumps(view.model_dump(mode="json", by_alias=True))
                yield f"event: job\ndata: {data}\n\n".encode() if data != previous else b": keep-alive\n\n"
                previous = data
                if job.state.is_finished:
                    return
                await wait_for_event(changed, KEEP_ALIVE_SECONDS)
                if await find_principal(query_service, request) is None:
                    return
                job = await query_service.reload_job(job, caller.tenant)
