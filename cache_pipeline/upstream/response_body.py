"""The body of an answer: read where a broken one can still be asked for again, or handed on as a stream."""

from collections.abc import AsyncIterator

from cache_pipeline.errors import UpstreamUnreachable
from cache_pipeline.upstream.http import httpx


class _ToldStream(httpx.AsyncByteStream):
    """A stream whose breaking is told in the words of the error tree."""

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


async def read_whole_body(response: httpx.Response, *, streamed: bool, host: str) -> httpx.Response:
    """Reads the body, so that its breaking off counts as a failed send; leaves it on the wire if it shall be streamed.

    Raises:
        httpx.TransportError: The body broke off.
    """
    if not streamed:
        try:
            await response.aread()
        finally:
            await response.aclose()
    elif isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _ToldStream(response.stream, host)
    return response
