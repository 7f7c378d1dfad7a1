"""Reads an answer's body completely while a broken one can still be requested again, or passes it on as a stream."""

import asyncio
from collections.abc import AsyncIterator

from cache_pipeline.errors import UpstreamUnreachable
from cache_pipeline.upstream.http import httpx

#: The longest time for a body that is read at once. The read timeout alone does not bound one that arrives byte by byte.
MAX_BODY_SECONDS = 300.0


class _ErrorTranslatingStream(httpx.AsyncByteStream):
    """A stream that raises `UpstreamUnreachable` when the connection breaks."""

    def __init__(self, inner: httpx.AsyncByteStream, host: str) -> None:
        self._inner = inner
        self._host = host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except httpx.TransportError as error:
            reason = f"the answer broke off: {error or type(error).__name__}"
            raise UpstreamUnreachable(host=self._host, reason=reason) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


async def read_whole_body(
    response: httpx.Response, *, streamed: bool, host: str, timeout_seconds: float = MAX_BODY_SECONDS
) -> httpx.Response:
    """Read the whole body, so that a broken body counts as a failed request; if `streamed`, leave it unread.

    Raises:
        httpx.TransportError: The connection broke before the end of the body, the end did not come within `timeout_seconds`, or
            the body cannot be decompressed.
    """
    if not streamed:
        try:
            async with asyncio.timeout(timeout_seconds):
                await response.aread()
        except TimeoutError:
            raise httpx.ReadTimeout(f"the answer did not end within {timeout_seconds:g} s") from None
        except httpx.DecodingError as error:
            raise httpx.RemoteProtocolError(f"the answer cannot be decompressed: {error}") from error
        finally:
            await response.aclose()
    elif isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _ErrorTranslatingStream(response.stream, host)
    return response


async def iterate_body(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the decompressed body of a streamed answer.

    Raises:
        UpstreamUnreachable: The connection broke, or the body cannot be decompressed.
    """
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except httpx.DecodingError as error:
        reason = f"the answer cannot be decompressed: {error}"
        raise UpstreamUnreachable(host=response.request.url.host, reason=reason) from error
