"""What vendors' jobs have in common over HTTP: asked as the client that submitted, and read by cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from cache_pipeline.query.schema import SchemaMismatch
from cache_pipeline.upstream.errors import JobGone, raise_for_refusal, vendor_words
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.platforms.base import Job
from cache_pipeline.upstream.platforms.payload import optional_text, read_object

#: What an unknown, deleted or expired job is answered with.
_GONE = (404, 410)


def as_submitted(job: Job) -> dict[str, object]:
    """Request extensions that send a request in the job's lane, as the OAuth client that submitted it."""
    return {"lane": job.lane, "oauth_client": job.oauth_client}


async def get_object(
    client: httpx.AsyncClient, job: Job, path: str, query: Mapping[str, str] | None = None
) -> Mapping[str, object]:
    """Ask something about a job.

    Raises:
        JobGone: the vendor does not know the job, or keeps its result no longer.
        UpstreamError: refused or unreachable.
        SchemaMismatch: the answer is no JSON object.
    """
    response = await client.get(path, params=dict(query or {}), extensions=as_submitted(job))
    if response.status_code in _GONE:
        _, message, _ = vendor_words(response)
        raise JobGone(job.id.partition("?")[0].rpartition("/")[2], message or response.reason_phrase)
    raise_for_refusal(response)
    return read_object(response)


async def cursor_pages(
    client: httpx.AsyncClient, job: Job, path: str, query: Mapping[str, str]
) -> AsyncIterator[Mapping[str, object]]:
    """Follow an opaque cursor until a page has none.

    Raises:
        SchemaMismatch: the cursor comes round to where it was, so that the pages would never end.
    """
    followed: set[str] = set()
    answer = await get_object(client, job, path, query)
    while True:
        yield answer
        cursor = optional_text(answer, "cursor")
        if cursor is None:
            return
        if cursor in followed:
            raise SchemaMismatch(f"job {job.id} gave the same page twice: its cursor does not move")
        followed.add(cursor)
        answer = await get_object(client, job, path, {**query, "cursor": cursor})
