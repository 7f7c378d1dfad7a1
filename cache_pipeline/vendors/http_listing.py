"""Listings over HTTP, whose pages name the address of the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.json_body import read_object, read_optional_text

RaiseForStatus = Callable[["httpx.Response"], None]


async def listing_pages(
    client: httpx.AsyncClient,
    path: str,
    parameters: Mapping[str, str],
    next_field: str,
    raise_for_status: RaiseForStatus,
) -> AsyncIterator[Mapping[str, object]]:
    """Yield the pages of a listing, one request each, in lane ``scheduled``.

    Args:
        client: Sends the requests.
        path: The path of the listing.
        parameters: The parameters of the first request.
        next_field: The field of a page with the address of the next one, which the last page lacks.
        raise_for_status: Raises for any status but 2xx.

    Raises:
        UpstreamError: The vendor refused, or could not be reached.
        SchemaMismatch: A page leads to another path, or back to an earlier page.
    """
    query, seen = httpx.QueryParams(dict(parameters)), set[str]()
    while str(query) not in seen:
        seen.add(str(query))
        response = await client.get(path, params=query, extensions={"lane": Lane.scheduled, "idempotent": True})
        raise_for_status(response)
        page = read_object(response)
        yield page
        following = read_optional_text(page, next_field)
        if not following:
            return
        url = httpx.URL(following)
        if url.path != path:
            raise SchemaMismatch(
                f"{next_field} of {path} leads to {url.path!r}: expected another page of the same path"
            )
        query = url.params
    raise SchemaMismatch(f"{path} returned the same page twice: its {next_field} does not advance")
