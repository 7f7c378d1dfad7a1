"""What vendors' jobs have in common over HTTP: asked as the client that submitted, and read by cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from cache_pipeline.errors import SchemaMismatch, UpstreamJobGone
from cache_pipeline.upstream.error_bodies import parse_error_body, raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline.vendors.json_body import read_object, read_optional_text

#: What an unknown, deleted or expired job is answered with.
_GONE = (404, 410)


def as_submitted(job: VendorJob) -> dict[str, object]:
    """Request extensions that send a request in the job's lane, as the OAuth client that submitted it."""
    return {"lane": job.lane, "oauth_client": job.oauth_client}


Read = Callable[[httpx.Response], Mapping[str, object]]


async def get_object(
    client: httpx.AsyncClient,
    job: VendorJob,
    path: str,
    query: Mapping[str, str] | None = None,
    read: Read = read_object,
) -> Mapping[str, object]:
    """Ask something about a job.

    Raises:
        UpstreamJobGone: the vendor does not know the job, or keeps its result no longer.
        UpstreamError: refused or unreachable.
        SchemaMismatch: the answer is no JSON object, or not what ``read`` wants.
    """
    response = await client.get(path, params=dict(query or {}), extensions=as_submitted(job))
    # Answer and stream hold each other, so that each page would stay until the collector of cycles comes by.
    response.stream = httpx.ByteStream(b"")
    if response.status_code in _GONE:
        _, message, _ = parse_error_body(response)
        raise UpstreamJobGone(job.id.partition("?")[0].rpartition("/")[2], message or response.reason_phrase)
    raise_for_refusal(response)
    return read(response)


async def cursor_pages(
    client: httpx.AsyncClient, job: VendorJob, path: str, query: Mapping[str, str], read: Read = read_object
) -> AsyncIterator[Mapping[str, object]]:
    """Follow an opaque cursor until a page has none; whoever reads a page lets go of it before the next is asked for.

    Raises:
        SchemaMismatch: the cursor comes round to where it was, so that the pages would never end.
    """
    followed: set[str] = set()
    asked = query
    while True:
        answer = await get_object(client, job, path, asked, read)
        cursor = read_optional_text(answer, "cursor")
        yield answer
        if cursor is None:
            return
        if cursor in followed:
            raise SchemaMismatch(f"job {job.id} gave the same page twice: its cursor does not move")
        followed.add(cursor)
        asked = {**query, "cursor": cursor}
        # Two pages at a time would be twice the memory.
        del answer
