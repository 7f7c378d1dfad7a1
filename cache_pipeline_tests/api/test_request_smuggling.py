"""Requests whose end is ambiguous: nothing that hides behind one of them is ever served."""

import asyncio
import re

import pytest

from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_pass_through import open_vendor
from cache_pipeline_tests.api.test_served import served

__all__ = ["open_vendor"]

HIDDEN_PATH = "/api/v2/teapots/hidden"
#: Read as chunks, the body is over after its first line, and a request follows. Read by its length, it is all body.
CHUNKS_THEN_HIDDEN = b"0\r\n\r\n%(hidden)s"

#: What stands between the request line and the end of the headers, and what follows. Each reader of the list reads one of two lengths.
AMBIGUOUS = {
    "length and chunks": (b"Content-Length: %(whole)d\r\nTransfer-Encoding: chunked\r\n", CHUNKS_THEN_HIDDEN),
    "chunks and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", CHUNKS_THEN_HIDDEN),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: %(whole)d\r\n", b"%(hidden)s"),
    "two lengths in one": (b"Content-Length: 0, %(whole)d\r\n", b"%(hidden)s"),
    "signed length": (b"Content-Length: +0\r\n", b"%(hidden)s"),
    "negative length": (b"Content-Length: -1\r\n", b"%(hidden)s"),
    "length in another base": (b"Content-Length: 0x0\r\n", b"%(hidden)s"),
    "length that overflows": (b"Content-Length: 18446744073709551616\r\n", b"%(hidden)s"),
    "space before the colon": (b"Content-Length : 0\r\n", b"%(hidden)s"),
    "another coding": (b"Transfer-Encoding: xchunked\r\n", CHUNKS_THEN_HIDDEN),
    "chunks before another coding": (b"Transfer-Encoding: chunked, identity\r\n", CHUNKS_THEN_HIDDEN),
    "two codings": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", b"%(hidden)s"),
    "chunks named after a null": (b"Transfer-Encoding: \x00chunked\r\n", CHUNKS_THEN_HIDDEN),
    "folded coding": (b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n", CHUNKS_THEN_HIDDEN),
    "bare line feeds": (b"Content-Length: 0\nX: \n\n", b"%(hidden)s"),
    "bare carriage return": (b"X: a\rContent-Length: %(whole)d\r\n", b"%(hidden)s"),
    "chunk of negative size": (b"Transfer-Encoding: chunked\r\n", b"-1\r\n\r\n%(hidden)s"),
    "chunk whose size overflows": (b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\n\r\n%(hidden)s"),
    "chunk of a size in another form": (b"Transfer-Encoding: chunked\r\n", b"0x0\r\n\r\n%(hidden)s"),
    "chunk that is longer than its size": (b"Transfer-Encoding: chunked\r\n", b"1\r\nab\r\n0\r\n\r\n%(hidden)s"),
    "line feed in a chunk's extension": (b"Transfer-Encoding: chunked\r\n", b"0;a\nb\r\n\r\n%(hidden)s"),
}
#: The same body is unambiguous with these, and is never served as a request.
PLAIN = {
    "length": (b"Content-Length: %(whole)d\r\n", b"%(hidden)s"),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"%(size)x\r\n%(hidden)s\r\n0\r\n\r\n"),
    "headers after the chunks": (
        b"Transfer-Encoding: chunked\r\n",
        b"%(size)x\r\n%(hidden)s\r\n0\r\nContent-Length: 0\r\nAuthorization: %(key)s\r\n\r\n",
    ),
}
BROKEN_LINES = (
    b"POST /v1/queries\r\n",
    b"POST /v1/queries HTTP/1.1 HTTP/1.1\r\n",
    b"POST /v1/queries HTTP/9.9\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n",
)


def hidden_request(key: str) -> bytes:
    return f"GET {HIDDEN_PATH} HTTP/1.1\r\nHost: api\r\nAuthorization: {key}\r\n\r\n".encode()


def request_with(key: str, headers: bytes, body: bytes) -> bytes:
    hidden = hidden_request(key)
    values = {b"hidden": hidden, b"size": len(hidden), b"key": key.encode()}
    written = body % values
    start = b"POST /v1/queries HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
    return start + headers % {**values, b"whole": len(written)} + b"\r\n" + written


async def exchange(url: str, sent: bytes) -> bytes:
    """Send bytes, and return all that is answered until the server closes the connection or is silent.

    It is given time to begin: an answer that comes too late would look like none.
    """
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    received = b""
    try:
        writer.write(sent)
        while part := await asyncio.wait_for(reader.read(65_536), 0.5 if received else 5):
            received += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


async def test_request_behind_an_ambiguous_one_is_never_served(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        key = (await create_key(api))["Authorization"]
        requests = {name: request_with(key, *parts) for name, parts in AMBIGUOUS.items()}
        requests |= {repr(line): line + b"Host: api\r\n\r\n" + hidden_request(key) for line in BROKEN_LINES}
        answers = await asyncio.gather(*(exchange(url, sent) for sent in requests.values()))
        for name, answer in zip(requests, answers, strict=True):
            assert answer.count(b"HTTP/1.1 ") <= 1, name
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), name
        assert vendor.requests == []


async def test_body_is_never_served_as_a_request(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        key = (await create_key(api))["Authorization"]
        for name, parts in PLAIN.items():
            answer = await exchange(url, request_with(key, *parts))
            assert answer.count(b"HTTP/1.1 ") == 1, name
            assert answer.startswith(b"HTTP/1.1 4"), name
        assert vendor.requests == []
        # What is hidden is served where it is sent openly.
        assert (await exchange(url, hidden_request(key))).startswith(b"HTTP/1.1 200")
        assert [path.rstrip("?") for _, path, _, _ in vendor.requests] == [HIDDEN_PATH]


@pytest.mark.parametrize("number", [2, 5])
async def test_pipelined_requests_are_answered_in_their_order(open_vendor, number):
    async with open_vendor() as (api, _), served(api.app, http=BoundedHttpProtocol) as url:
        head = b"GET /v1/%d HTTP/1.1\r\nHost: api\r\nX-Request-ID: request-%d\r\n\r\n"
        answer = await exchange(url, b"".join(head % (each, each) for each in range(number)))
        found = re.findall(rb"x-request-id: request-(\d)", answer)
        assert found == [str(each).encode() for each in range(number)]
