"""Jobs: how far they have come, by polling or by server-sent events, and their end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from cache_pipeline.api import schemas as wire
from cache_pipeline.api.auth import Principal
from cache_pipeline.api.dependencies import Caller, TheGateway
from cache_pipeline.api.jobs.job import ApiJob
from cache_pipeline.api.openapi import problem_responses
from cache_pipeline.api.parsing import href
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService

router = APIRouter(tags=["jobs"])

#: A comment goes out as often, so that proxies on the way do not take silence for the end.
_KEEP_ALIVE_SECONDS = 10.0

JobId = Annotated[UUID, Path(description="As told by Location or the body of a 202")]


def show_job(accepted: AcceptedJob) -> wire.JobView:
    """A job as it goes out."""
    job = accepted.job
    return wire.job_view(
        job, position=accepted.position, retry_after=accepted.retry_after, result=href(job.report, job.request)
    )


async def _found(gateway: QueryService, caller: Principal, job_id: UUID) -> ApiJob:
    job = await gateway.jobs.get(job_id, caller.tenant)
    if job is None or not caller.may_ask(job.report):
        raise Problem("unknown-job", 404, f"there is no job {job_id}: it may have ended more than a day ago")
    return job


@router.get("/v1/jobs/{job_id}", responses=problem_responses(404, 422), summary="See a job", operation_id="readJob")
async def read_job(job_id: JobId, gateway: TheGateway, caller: Caller, response: Response) -> wire.JobView:
    """Always 200 while the job is remembered, whatever its state; Retry-After says when to look again."""
    accepted = await gateway.accepted(await _found(gateway, caller, job_id))
    response.headers["Cache-Control"] = "no-store"
    if accepted.retry_after:
        response.headers["Retry-After"] = str(accepted.retry_after)
    found = show_job(accepted)
    if found.links.result:
        response.headers["Link"] = f'<{found.links.result}>; rel="result"'
    return found


@router.delete(
    "/v1/jobs/{job_id}", responses=problem_responses(404, 422), summary="Cancel a job", operation_id="cancelJob"
)
async def cancel_job(job_id: JobId, gateway: TheGateway, caller: Caller) -> wire.JobView:
    """Take this key off the job. It is cancelled when no other key waits for it; one that has ended stays as it is."""
    await _found(gateway, caller, job_id)
    job = await gateway.jobs.cancel(job_id, caller.tenant, caller.id)
    await gateway.events.announce(job_id)
    return show_job(await gateway.accepted(job or await _found(gateway, caller, job_id)))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events `job`, each with the job as JSON; the last has an ended state",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problem_responses(404, 422),
    },
    summary="Follow a job",
    operation_id="followJob",
)
async def follow_job(job_id: JobId, gateway: TheGateway, caller: Caller) -> StreamingResponse:
    """To be read with `fetch`: the browser's EventSource cannot send an API key."""
    job = await _found(gateway, caller, job_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(gateway, job, caller.tenant), headers=headers, media_type="text/event-stream")


async def _events(gateway: QueryService, job: ApiJob, tenant: str) -> AsyncGenerator[bytes]:
    told = ""
    async with gateway.events.watching(job.id) as changed:
        while True:
            news = json.dumps(show_job(await gateway.accepted(job)).model_dump(mode="json", by_alias=True))
            if news != told:
                told = news
                yield f"event: job\ndata: {news}\n\n".encode()
            else:
                yield b": still here\n\n"
            if job.state.ended:
                return
            await gateway.events.wait(changed, _KEEP_ALIVE_SECONDS)
            job = await gateway.look(job, tenant)
