"""Requests about a vendor's jobs over HTTP: poll as the client that submitted, follow a result's cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cache_pipeline.errors import SchemaMismatch, UpstreamJobGone
from cache_pipeline.upstream.error_bodies import parse_error_body, raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline.vendors.json_body import read_object, read_optional_text

#: Status codes for an unknown, deleted or expired job.
_GONE = (404, 410)

Body = TypeVar("Body")
BodyReader = Callable[["httpx.Response"], Mapping[str, object]]


@dataclass(frozen=True)
class JobPage:
    """One page of a job's results.

    Attributes:
        body: The JSON object.
        size: Its length in bytes.
    """

    body: Mapping[str, object]
    size: int


def job_extensions(job: VendorJob) -> dict[str, object]:
    """Return the request extensions that send a request in the job's lane, as the OAuth client that submitted it."""
    return {"lane": job.lane, "oauth_client": job.oauth_client}


async def get_object(
    client: httpx.AsyncClient,
    job: VendorJob,
    path: str,
    query: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """Fetch a JSON object about a job; it raises what `_get` raises."""
    return await _get(client, job, path, query or {}, read_object)


async def _get(
    client: httpx.AsyncClient,
    job: VendorJob,
    path: str,
    query: Mapping[str, str],
    read: Callable[[httpx.Response], Body],
) -> Body:
    """Fetch something about a job.

    Raises:
        UpstreamJobGone: The vendor does not know the job, or no longer keeps its result.
        UpstreamError: The request was refused, or the vendor could not be reached.
        SchemaMismatch: The body is not a JSON object, or not what ``read`` expects.
    """
    response = await client.get(path, params=dict(query), extensions=job_extensions(job))
    # Response and stream refer to each other. Break the cycle, so that each page is freed at once and not only when the
    # garbage collector runs.
    response.stream = httpx.ByteStream(b"")
    if response.status_code in _GONE:
        _, message, _ = parse_error_body(response)
        raise UpstreamJobGone(job.id.partition("?")[0].rpartition("/")[2], message or response.reason_phrase)
    raise_for_refusal(response)
    return read(response)


async def cursor_pages(
    client: httpx.AsyncClient, job: VendorJob, path: str, query: Mapping[str, str], read: BodyReader = read_object
) -> AsyncIterator[JobPage]:
    """Follow an opaque cursor until a page has none. Callers drop each page before they ask for the next.

    Raises:
        SchemaMismatch: A cursor was returned before, so the pages would never end.
    """
    seen: set[str] = set()
    params = query
    while True:
        page = await _get(client, job, path, params, lambda response: JobPage(read(response), len(response.content)))
        cursor = read_optional_text(page.body, "cursor")
        yield page
        if not cursor:
            return
        if cursor in seen:
            raise SchemaMismatch(f"job {job.id} returned the same page twice: its cursor does not advance")
        seen.add(cursor)
        params = {**query, "cursor": cursor}
        # Holding two pages at a time would double the memory.
        del page
